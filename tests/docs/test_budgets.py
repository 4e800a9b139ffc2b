"""The server is one file that can be read from top to bottom: what it may measure at most."""
import ast
import bisect
import re
import statistics
import symtable

import pytest
from tools import ROOT

SOURCE = (ROOT / "iotserver.py").read_text(encoding="utf-8")
LINES = SOURCE.splitlines()
TREE = ast.parse(SOURCE)
BANNERS = [(number, line) for number, line in enumerate(LINES, 1) if re.match(r"# \d+\. ", line)]

# Each room is read in a quarter of an hour. The table of words in other languages is data, which
# nobody reads from top to bottom: it counts neither in its room nor in the file. The design asks
# for less than 10,000 lines of file; FILE_LINES is what there is, so that it only becomes less.
ROOM_LINES, FILE_LINES = 700, 11_056
COLUMNS = 99
FUNCTION_LINES = {"median": 8, "90 %": 20, "all": 50}
CLASS_LINES, CLASS_ATTRIBUTES = 300, 20


def lines_of(function):
    """From `def` to its last line, without the docstring."""
    size = function.end_lineno - function.lineno + 1
    if ast.get_docstring(function) and function.body[1:]:
        said = function.body[0]
        size -= said.end_lineno - said.lineno + 1
    return size


def attributes_of(cls):
    """What its methods assign to self, or its body declares."""
    assigned = {node.attr for node in ast.walk(cls)
                if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
                and isinstance(node.value, ast.Name) and node.value.id == "self"}
    return assigned | {node.target.id for node in cls.body if isinstance(node, ast.AnnAssign)}


def functions(tree):
    return {f"{node.name}, line {node.lineno}": lines_of(node) for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def classes(tree):
    return [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]


def places(tree):
    """The line at which each name of the module is first given a meaning."""
    found = {}
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", node)]
        for target in targets:
            for part in ast.walk(target) if isinstance(target, ast.Tuple) else [target]:
                name = getattr(part, "name", None) or getattr(part, "id", None)
                found.setdefault(name, node.lineno)
    return found


def global_names(table):
    """The names of the module that functions use, and the line at which the function begins."""
    for child in table.get_children():
        yield from ((symbol.get_name(), child.get_lineno()) for symbol in child.get_symbols()
                    if symbol.is_global())
        yield from global_names(child)


def used_too_early(source):
    """Names that stand in a section below that of a function which uses them.

    What runs at import cannot be too early, and annotations in quotes do not count.
    """
    banners = [number for number, line in enumerate(source.splitlines(), 1)
               if re.match(r"# \d+\. ", line)]
    defined = places(ast.parse(source))
    return sorted({
        f"{name}, of line {defined[name]}, in line {line}"
        for name, line in global_names(symtable.symtable(source, "iotserver.py", "exec"))
        if bisect.bisect(banners, defined.get(name, 0)) > bisect.bisect(banners, line)})


def table_lines(tree):
    """The lines of the table of words in other languages."""
    return sum(node.end_lineno - node.lineno + 1 for node in tree.body
               if "TRANSLATIONS" in {getattr(target, "id", None) for target in (
                   getattr(node, "targets", None) or [getattr(node, "target", None)])})


def test_the_file_is_narrow_and_each_room_fits_in_a_head():
    starts = [number for number, _ in BANNERS] + [len(LINES)]
    sizes = {line: end - start for (start, line), end in zip(BANNERS, starts[1:], strict=True)}
    languages = [line for line in sizes if line.endswith("Languages")]
    for line in languages:
        sizes[line] -= table_lines(TREE)
    assert {line: size for line, size in sizes.items() if size > ROOM_LINES} == {}
    assert len(LINES) - table_lines(TREE) <= FILE_LINES
    assert [number for number, line in enumerate(LINES, 1) if len(line) > COLUMNS] == []


def test_functions_are_small():
    sizes = functions(TREE)
    assert statistics.median(sizes.values()) <= FUNCTION_LINES["median"]
    assert statistics.quantiles(sizes.values(), n=10)[-1] <= FUNCTION_LINES["90 %"]
    assert [name for name, size in sizes.items() if size > FUNCTION_LINES["all"]] == []


@pytest.mark.parametrize("cls", classes(TREE), ids=lambda cls: cls.name)
def test_a_class_does_one_thing(cls):
    assert cls.end_lineno - cls.lineno + 1 <= CLASS_LINES
    assert len(attributes_of(cls)) <= CLASS_ATTRIBUTES


def test_the_docstring_is_the_index():
    index = re.findall(r"^    +(\d+\. \w+(?: \w+)?)  ", ast.get_docstring(TREE, clean=False),
                       re.MULTILINE)
    assert index == [line.removeprefix("# ") for _, line in BANNERS]


def test_each_section_has_a_law():
    for number, line in BANNERS:
        law = "\n".join(LINES[number:]).partition("\n# ---")[0]
        assert law.startswith("#    Law: "), f"no law below {line}"


def test_a_section_uses_only_names_above_it():
    assert used_too_early(SOURCE) == []


def test_a_name_that_is_used_too_early_is_found():
    source = "# 1. A\ndef f(x: 'later'):\n    return x + later\n# 2. B\nlater, z = 1, 2\n"
    assert used_too_early(source) == ["later, of line 5, in line 2"]
    assert used_too_early(source.replace("x + later", "x")) == []
    assert used_too_early(source.replace("# 2. B\n", "")) == []
