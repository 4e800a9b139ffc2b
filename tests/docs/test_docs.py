"""What the project promises about itself: its README, its one file, its top level."""
import ast
import re
import shutil
import subprocess
import sys

import pytest
from tools import ROOT, skip

import iotserver

SOURCE = (ROOT / "iotserver.py").read_text(encoding="utf-8")
FLAGS = sorted({flag for action in iotserver.build_parser({})._actions
                for flag in action.option_strings if flag.startswith("--")} - {"--help"})
VARIABLES = [s.variable for s in iotserver.SETTINGS] + [
    "STATE_DIRECTORY", "LISTEN_FDS", "NOTIFY_SOCKET"]
CONTRACT = {                    # design.md, Layout
    "iotserver.py", "firmware", "systemd", "tests", "README.md", "LICENSE", "pyproject.toml",
    ".ci", ".gitignore"}


@pytest.fixture(scope="module")
def readme():
    return (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("flag", FLAGS)
def test_flag_is_in_the_readme(readme, flag):
    assert f"`{flag}" in readme or f" {flag}" in readme


@pytest.mark.parametrize("route", iotserver.ROUTES)
def test_route_is_in_the_readme(readme, route):
    assert f" {route}`" in readme or f" {route}" in readme


@pytest.mark.parametrize("variable", VARIABLES)
def test_environment_variable_is_in_the_readme(readme, variable):
    assert variable in readme


def test_flags_are_those_of_the_contract():
    assert set(FLAGS) >= {"--host", "--port", "--db", "--rate-limit", "--units", "--comfort",
                          "--demo", "--add-station", "--mac", "--role", "--key", "--stations",
                          "--new-key", "--remove-station", "--prune", "--dry-run", "--backup",
                          "--export", "--import", "--station", "--label", "--check", "--version"}


def test_only_the_standard_library_is_imported():
    modules = set()
    for node in ast.walk(ast.parse(SOURCE)):
        if isinstance(node, ast.Import):
            modules |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules.add(node.module.partition(".")[0])
    assert modules
    assert modules - set(sys.stdlib_module_names) == set()


def test_nothing_else_is_at_the_top_level():
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        skip("this is no git clone")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True,
                            text=True).stdout.splitlines()
    top = {name.partition("/")[0] for name in listed}
    assert top - CONTRACT == set()
    assert CONTRACT - top == set()


def test_each_file_of_tests_is_in_their_readme_with_what_it_needs():
    text = (ROOT / "tests" / "README.md").read_text(encoding="utf-8")
    told = {file: set(re.findall(r"`(.+?)`", needs)) for file, needs in re.findall(
        r"^\| `(\S+/test_\w+\.py)` \|[^|]*\|([^|]*)\|", text, re.MULTILINE)}
    there = {}
    for path in ROOT.glob("tests/*/test_*.py"):
        marks = " ".join(re.findall(r"\bneeds\(([^)]*)\)", path.read_text(encoding="utf-8")))
        there[str(path.relative_to(ROOT / "tests"))] = set(re.findall(r'"(.+?)"', marks))
    assert told == there
