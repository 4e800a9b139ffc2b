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


def pytest_terminal_summary(terminalreporter):
    """What tests measured, with record_property."""
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            terminalreporter.write_line(f"{name}: {value}")
