"""Fixtures for all tests; what stands behind them is in support/."""
import os

import pytest

pytest.register_assert_rewrite("harness", "house", "injection", "tools")

from harness import (  # noqa: E402
    database,
    in_process,
    live,
    many_files,
    public_folder,
    run,
    serve,
    server,
    template,
)

__all__ = [
    "database", "in_process", "live", "many_files", "public_folder", "run", "serve", "server",
    "template"]


@pytest.fixture(autouse=True)
def same_umask():
    """A test that calls main() in this process leaves nothing behind for the next one."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def pytest_terminal_summary(terminalreporter):
    """What tests measured, with record_property."""
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            terminalreporter.write_line(f"{name}: {value}")
