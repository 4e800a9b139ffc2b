"""Fixtures for all tests; what stands behind them is in support/."""
import collections
import os
import re
import sys

import coverage
import pytest

pytest.register_assert_rewrite("harness", "house", "injection", "tools")

import tools  # noqa: E402
from harness import (  # noqa: E402
    database,
    forks,
    in_process,
    live,
    many_files,
    password_file,
    public_folder,
    run,
    serve,
    server,
    template,
)

import iotserver  # noqa: E402

WINGS = set(re.findall(r"^# \d+\. (.+)$", tools.source_of(iotserver), re.MULTILINE))
COVERAGE = os.environ.get("COVERAGE_PROCESS_CONFIG")
__all__ = [
    "database", "forks", "in_process", "live", "many_files", "password_file", "public_folder",
    "run", "serve", "server", "template"]


def pytest_addoption(parser):
    group = parser.getgroup("this project")
    group.addoption("--quick", action="store_true",
                    help="only tests that need nothing but Python, and are soon done")
    group.addoption("--seconds", action="store_true", help="tell how long each file took")
    group.addoption("--no-install", action="store_true",
                    help="skip tests that lack a program, instead of installing it with apt-get")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    left_out = [item for item in items if (config.option.quick and not is_quick(item))
                or {name for mark in item.iter_markers("wings") for name in mark.args} - WINGS]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in {*left_out}]


def is_quick(item):
    """Needs nothing, is not slow, and starts no process: thousands of starts take minutes."""
    return not (tools.needs_of(item) or item.get_closest_marker("slow")
                or item.get_closest_marker("untraced")
                or {"run", "serve", "live"} & {*item.fixturenames})


def is_untraced(item):
    """Whether coverage leaves a test out. It makes slow tests take up to three times as long, and
    faster tests run the same lines."""
    return item.get_closest_marker("untraced") or item.get_closest_marker("slow")


def pytest_collection_finish(session):
    if not session.config.option.collectonly:
        def say(text):
            if os.environ.get("PYTEST_XDIST_WORKER", "gw0") == "gw0":
                print(text, file=sys.__stderr__, flush=True)
        needed = set().union(*map(tools.needs_of, session.items))
        tools.install(needed, say, may_install=not session.config.option.no_install)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    tools.begin(item)
    if COVERAGE:
        os.environ["COVERAGE_PROCESS_CONFIG"] = COVERAGE
        if tools.needs_of(item) or is_untraced(item):
            del os.environ["COVERAGE_PROCESS_CONFIG"]


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item):
    """What is untraced is so in this process, too."""
    tracer = coverage.Coverage.current() if is_untraced(item) else None
    if tracer:
        tracer.stop()
    yield
    if tracer:
        tracer.start()


@pytest.fixture(autouse=True)
def same_umask():
    """A test that calls main() in this process leaves nothing behind for the next one."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def pytest_terminal_summary(terminalreporter, config):
    """What tests measured, with record_property; and how long each file took."""
    seconds = collections.Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                seconds[report.nodeid.partition("::")[0]] += report.duration
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            terminalreporter.write_line(f"{name}: {value}")
    if config.option.seconds:
        for name, total in sorted(seconds.items()):
            terminalreporter.write_line(f"{name}: {total:.1f} s")
