"""nginx before the real server, for all tests in this folder."""
import pytest

pytest.register_assert_rewrite("droplet")

from droplet import certificate, droplet  # noqa: E402

__all__ = ["certificate", "droplet"]
