"""The server is one file that can be read from top to bottom: what it may measure at most."""
import ast
import bisect
import itertools
import re
import statistics
import symtable

import pytest
from tools import ROOT

SOURCE = (ROOT / "iotserver.py").read_text(encoding="utf-8")
LINES = SOURCE.splitlines()
TREE = ast.parse(SOURCE)
BANNERS = [(number, line) for number, line in enumerate(LINES, 1) if re.match(r"# \d+\. ", line)]

# The design asks for 4,700 lines of house, 700 for the roof and each wing, and 7,400 in all. These
# are what there is, so that it only becomes less.
MOST_LINES = {"house": 7_000, "wing": 700, "all": 9_716}
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


def test_the_file_is_narrow_and_no_section_grows():
    starts = [number for number, _ in BANNERS] + [len(LINES)]
    sizes = [end - start for start, end in itertools.pairwise(starts)]
    house = next(i for i, (_, line) in enumerate(BANNERS) if line.endswith("ThingSpeak"))
    assert sum(sizes[:house]) + starts[0] <= MOST_LINES["house"]
    assert max(sizes[house:]) <= MOST_LINES["wing"]
    assert len(LINES) <= MOST_LINES["all"]
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


PATTERNS = ("MAX_", "STEP_", "MIN_", "DEFAULT_")    # limits are many: their beginning says enough


def exports(source):
    """{number of a section: what later sections use of it}, as its banner says it."""
    starts = [number for number, line in enumerate(source.splitlines(), 1)
              if re.match(r"# \d+\. ", line)]
    tree = ast.parse(source)
    homes = {name: bisect.bisect(starts, line) for name, line in places(tree).items()}
    used = {*global_names(symtable.symtable(source, "iotserver.py", "exec")),
            *((node.id, node.lineno) for node in ast.walk(tree)
              if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load))}
    found = {number: set() for number in range(1, len(starts) + 1)}
    for name, line in used:
        if 0 < homes.get(name, 0) < bisect.bisect(starts, line):
            found[homes[name]].add(next(
                (f"{begin}*" for begin in PATTERNS if name.startswith(begin)), name))
    return found


def test_a_banner_says_what_its_section_exports():
    for number, names in exports(SOURCE).items():
        start = BANNERS[number - 1][0]
        banner = "\n".join(LINES[start:]).partition("\n# ---")[0]
        told = " ".join(banner.replace("#", " ").partition("Exports:")[2].split())
        assert {*told.split(", ")} - {""} == names, f"section {number}"


def test_what_a_section_exports_is_found():
    source = "# 1. A\nMAX_A = 1\ndef f(): pass\n# 2. B\nf(MAX_A)\ndef g():\n    return g\n"
    assert exports(source) == {1: {"MAX_*", "f"}, 2: set()}


def test_a_section_uses_only_names_above_it():
    assert used_too_early(SOURCE) == []


def test_a_name_that_is_used_too_early_is_found():
    source = "# 1. A\ndef f(x: 'later'):\n    return x + later\n# 2. B\nlater, z = 1, 2\n"
    assert used_too_early(source) == ["later, of line 5, in line 2"]
    assert used_too_early(source.replace("x + later", "x")) == []
    assert used_too_early(source.replace("# 2. B\n", "")) == []
