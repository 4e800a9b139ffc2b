"""Places to change: what a stranger adds, as a patched copy that runs, touches one room."""
import os
import re
import shutil
import subprocess
import sys

import pytest
from tools import ROOT

SOURCE = (ROOT / "iotserver.py").read_text(encoding="utf-8")

# A further name of a console's value: vapor pressure deficit, in inHg.
VPD = [('''AIR_SENSORS = (
''', '''AIR_SENSORS = (
    ("in", 4, "inhg", "vpd"),
''')]
VPD_TEST = '''
from harness import Live


def test_vpd(run, tmp_path):
    run("--add-station", "garden", "--mac", "G", "--console", "--key", "K")
    live = Live(tmp_path)
    assert live.get("/data/report/K?PASSKEY=x&tempf=70&vpd=0.3").status == 200
    live.check_end()
    rows = [line.split(",")[1:5] for line in run("--export", "-").splitlines()[1:]]
    assert ["garden inside", "g-in", "4", "10.2"] in rows
'''

# A new kind of message. Nobody is told the opposite, so its state is the day.
FROST = [
    ('TOPICS = ("verdict", "silence", "plan"', 'TOPICS = ("verdict", "silence", "plan", "frost"'),
    ('''            yield from self.listen(station, true, place.heard or 0, now)
''', '''            yield from self.listen(station, true, place.heard or 0, now)
            is_frost = station.role == "outside" and place.said and place.last.value < 0
            day = datetime.fromtimestamp(now / 1000).date().isoformat()
            yield station.id, "frost", day if is_frost else "", now
'''),
    ('''    if topic == "plan":
        times''', '''    if topic == "frost":
        return locale.say("title_frost"), locale.say("text_frost", name=name)
    if topic == "plan":
        times'''),
    ('"kind": "plan" if topic == "plan" else state,',
     '"kind": topic if topic in {"plan", "frost"} else state,'),
    ('''def say_message(''', '''SENTENCES |= {
    "title_frost": "Frost", "text_frost": "It freezes at “{name}”."}


def say_message(''')]
FROST_TEST = '''
import pytest


@pytest.mark.parametrize("language", ["en", "de"])
def test_frost(household, hook, language):
    home = household(language=language)
    home.play(5, outside=1)
    assert hook.kinds == []
    for night in (1, 2):
        home.play(5, outside=-1)
        home.play(5, outside=1)
        home.play(5, outside=-1)
        assert hook.kinds == ["frost"] * night
        assert hook.texts[-1] == "It freezes at “outside”."
        home.house.time += 86_400
'''
# The trap: with one and the same state each night, the second one is told to nobody.
TRAP = [*FROST, ('"frost", day if is_frost', '"frost", "frost" if is_frost')]

COLOR = [("--open: #0b5d8f", "--open: #123456"), ("--open: #0a5480", "--open: #234567")]
COLOR_TEST = '''
from harness import INSIDE, OUTSIDE


def test_color(server):
    for _ in range(3):
        server.update(INSIDE, 26)
        server.update(OUTSIDE, 20)
    page = server.get("/").text
    for color in ("#123456", "#234567"):
        assert f"--open: {color}" in page               # of the answer, the pills, the chart
        assert f'content="{color}"' in page             # of the frame that a phone draws
    assert "#0b5d8f" not in page and "#0a5480" not in page
'''
CHANGES = {"vpd": (VPD, "Consoles", VPD_TEST), "frost": (FROST, "Messages", FROST_TEST),
           "color": (COLOR, "Looks", COLOR_TEST)}


def rooms_of(source):
    """The text of each room, by its title."""
    pieces = re.split(r"(?m)^# -{96}\n(?=# \d+\. )", source)
    return {re.match(r"# \d+\. (.+)", piece)[1]: piece for piece in pieces[1:]}


def patched(patches):
    source = SOURCE
    for old, new in patches:
        assert source.count(old) == 1, old
        source = source.replace(old, new)
    return source


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_made_in_one_room(name):
    patches, room, _ = CHANGES[name]
    before, after = rooms_of(SOURCE), rooms_of(patched(patches))
    assert [title for title in before if before[title] != after[title]] == [room]
    if name == "vpd":
        assert after[room].count("\n") == before[room].count("\n") + 1      # one row


def try_out(folder, patches, test):
    """Run a test of the courier's folder, which has all fixtures, on a patched copy."""
    (folder / "iotserver.py").write_text(patched(patches), encoding="utf-8")
    shutil.copy(ROOT / "pyproject.toml", folder)
    for place in ("support", "courier/conftest.py", "conftest.py"):
        source, target = ROOT / "tests" / place, folder / "tests" / place
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True,
                            ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    (folder / "tests/courier/test_it.py").write_text(test, encoding="utf-8")
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"], cwd=folder, text=True,
        env={**os.environ, "CI": "false", "PYTHONDONTWRITEBYTECODE": "1"}, check=False,
        capture_output=True)


@pytest.mark.untraced
@pytest.mark.parametrize("name", CHANGES)
def test_what_was_changed_works(tmp_path, name):
    patches, _, test = CHANGES[name]
    done = try_out(tmp_path, patches, test)
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout
    assert try_out(tmp_path, [], test).returncode == 1      # it asks for what is new


@pytest.mark.untraced
def test_a_kind_of_message_without_an_opposite_or_a_date_is_told_once(tmp_path):
    """Which is said where one adds a kind."""
    done = try_out(tmp_path, TRAP, FROST_TEST)
    assert "assert ['frost'] == ['frost', 'frost']" in done.stdout
    said = SOURCE[:SOURCE.index('\nTOPICS = ')].rpartition("\n\n")[2]
    assert "date" in said
