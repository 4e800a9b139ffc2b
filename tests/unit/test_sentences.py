"""Sentences: each is a whole row of one table, and what the program says is in it."""
import ast
import re
import string

import pytest
from tools import ROOT

import iotserver as iot

TREE = ast.parse((ROOT / "iotserver.py").read_text(encoding="utf-8"))


def holes(text):
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


def said():
    """The pattern of the key, and the holes that are given, of each call of say()."""
    for node in ast.walk(TREE):
        if isinstance(node, ast.Call) and re.fullmatch(
                r"(?:.*\.)?(?:locale|ENGLISH)\.say", ast.unparse(node.func)):
            for part in ast.walk(node.args[0]):
                if isinstance(part, ast.JoinedStr):
                    yield "".join(re.escape(piece.value) if isinstance(piece, ast.Constant)
                                  else "[a-z0-9]+" for piece in part.values), None
                elif isinstance(part, ast.Constant) and isinstance(part.value, str):
                    given = {keyword.arg for keyword in node.keywords}
                    yield part.value, None if None in given else given


def test_what_is_said_is_in_the_table_and_gets_its_holes():
    found = [*said()]
    assert len(found) > 30
    for pattern, given in found:
        keys = [key for key in iot.SENTENCES if re.fullmatch(pattern, key)]
        assert keys or "[" not in pattern, pattern
        if given is not None and "[" not in pattern and pattern in iot.SENTENCES:
            assert holes(iot.SENTENCES[pattern]) <= given, pattern


def test_no_sentence_is_left_over():
    """Each key stands somewhere in the program, or the beginning of an f-string makes it."""
    texts = {node.value for node in ast.walk(TREE)
             if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    table = next(node.value for node in TREE.body if isinstance(node, ast.Assign)
                 and ast.unparse(node.targets[0]) == "SENTENCES")
    counted = [node.value for node in ast.walk(TREE) if isinstance(node, ast.Constant)]
    patterns = [re.compile(pattern) for pattern, _ in said() if "[" in pattern]
    for key in (node.value for node in table.keys):
        assert key in texts
        assert counted.count(key) > 1 or any(p.fullmatch(key) for p in patterns), key


@pytest.mark.parametrize("locale", [iot.Locale(language) for language in iot.LANGUAGES])
def test_a_missing_key_is_an_error_and_no_empty_text(locale):
    with pytest.raises(KeyError):
        locale.say("no such key")
