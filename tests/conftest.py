"""Fixtures for all tests; what stands behind them is in harness.py."""
import pytest

pytest.register_assert_rewrite("harness", "tools")

from harness import (  # noqa: E402
    database,
    in_process,
    live,
    many_files,
    run,
    serve,
    server,
    template,
)

__all__ = ["database", "in_process", "live", "many_files", "run", "serve", "server", "template"]
