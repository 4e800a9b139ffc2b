"""A machine to install on, for all tests in this folder."""
import pytest

pytest.register_assert_rewrite("machine")

from machine import booted, machine  # noqa: E402

__all__ = ["booted", "machine"]
