"""A wing can be taken off: without any of them, and without all, the house stands."""
import ast
import builtins
import contextlib
import os
import re
import shutil
import subprocess
import symtable
import sys

import pytest
from forks import Forks
from harness import Live, environment
from tools import ROOT

SOURCE = (ROOT / "iotserver.py").read_text(encoding="utf-8")
INDEX = ast.get_docstring(ast.parse(SOURCE), clean=False)
WINGS = re.findall(r"^    +\d+\. (\w+(?: \w+)?)  ", INDEX.split("Wings")[1].split("Roof")[0],
                   re.MULTILINE)
PIECES = re.split(r"(?m)^(?=# -{96}\n# \d+\. )", SOURCE)
CUTS = [*((wing,) for wing in WINGS), tuple(WINGS)]
BRIEF = ["tests/store/test_store.py", "tests/server/test_http.py"]
HOUSE = [*BRIEF, "tests/server/test_verdict_routes.py", "tests/unit/test_domain.py",
         "tests/unit/test_said.py", "tests/unit/test_damp.py", "tests/page/test_rooms.py"]


def name_of(cut):
    return cut[0] if len(cut) == 1 else "all"


def without(cut):
    """The program without these wings."""
    found = {re.match(r"# -+\n# \d+\. (.+)", piece)[1]: piece for piece in PIECES[1:]}
    assert {*cut} <= found.keys()
    return PIECES[0] + "".join(piece for title, piece in found.items() if title not in cut)


def names_missing(source):
    """Names that are used, in functions or outside of them, and defined nowhere."""
    top = symtable.symtable(source, "iotserver.py", "exec")
    known = {*dir(builtins), "__file__", "__doc__", "__name__",
             *(symbol.get_name() for symbol in top.get_symbols() if symbol.is_assigned()
               or symbol.is_imported() or symbol.is_namespace())}

    def used(table):
        for symbol in table.get_symbols():
            if symbol.is_global() or (table is top and symbol.is_referenced()):
                yield symbol.get_name()
        for child in table.get_children():
            yield from used(child)
    return {*used(top)} - known


@pytest.fixture
def cut_down(tmp_path):
    """A folder with the program without some wings, and the tests beside it."""
    def cut_down(cut):
        (tmp_path / "iotserver.py").write_text(without(cut), encoding="utf-8")
        shutil.copy(ROOT / "pyproject.toml", tmp_path)
        shutil.copytree(ROOT / "tests", tmp_path / "tests", ignore=shutil.ignore_patterns(
            "__pycache__", "*.csv", "pictures"))
        return tmp_path
    return cut_down


def test_there_are_eleven_wings_and_the_index_names_them():
    assert len(WINGS) == 11
    assert without(()) == SOURCE


@pytest.mark.parametrize("cut", CUTS, ids=name_of)
def test_no_name_of_a_wing_is_missed(cut):
    assert names_missing(without(cut)) == set()


def test_a_missing_name_is_found():
    assert names_missing("def f():\n    return g\nx = h\n") == {"g", "h"}


@pytest.mark.untraced
@pytest.mark.parametrize("cut", CUTS, ids=name_of)
def test_what_is_left_serves(tmp_path, cut):
    """Its commands and its routes, as a household uses them."""
    program = tmp_path / "iotserver.py"
    program.write_text(without(cut), encoding="utf-8")
    with contextlib.closing(Forks(program, environment())) as forks:
        use_what_is_left(forks, tmp_path)


def use_what_is_left(forks, folder):
    def run(*args):
        done = forks.run(args, folder, environment(), "")
        assert done.returncode == 0, done.stderr
        return done.stdout
    for name in ("inside", "outside"):
        run("--add-station", name, "--mac", name, "--role", name, "--key", f"K-{name}")
    live = Live(folder, forks=forks)
    try:
        for name, value in (("inside", 26), ("outside", 20)):
            path = f"/update/API_key=K-{name}/mac={name}/field=1/data={value}"
            assert live.get(path).text == "1"
        assert "Open the windows" in live.get("/").text
        assert live.get("/verdict.txt").text == (
            "inside: Open the windows: it is 6 °C cooler outside.\n")
        assert live.get("/healthz").text == "ok"
        assert run("--backup", "b.db").endswith("checked\n")
        exported = run("--export", "-")
        assert exported.count("\n") == 3
    finally:
        live.check_end()
    (folder / "in.csv").write_text(exported)
    assert run("--import", "in.csv").startswith("imported 0 readings; 2 were there already")
    assert run("--check") == "ok\n"


@pytest.mark.slow
@pytest.mark.untraced
@pytest.mark.parametrize("cut", CUTS, ids=name_of)
def test_the_house_passes_its_tests(cut_down, cut):
    """A quick part of them without one wing, more without all."""
    folder = cut_down(cut)
    files = BRIEF if len(cut) == 1 else HOUSE
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--quick", "-p", "no:cacheprovider", *files],
        cwd=folder, env={**os.environ, "CI": "false"}, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    assert re.search(r"^\d{3} passed", done.stdout, re.MULTILINE), done.stdout[-300:]
