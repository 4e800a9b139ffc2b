"""A damaged file is refused or harmless, and never overwritten: each page of a small database is
damaged in turn, and the file is cut off at each page."""
import random
import re
from contextlib import closing, suppress

import pytest
from harness import INSIDE, OUTSIDE, SCRIPT, InProcess, rows_of, update_path
from injection import broken, for_each, living

import iotserver

pytestmark = [pytest.mark.slow, pytest.mark.untraced]

PAGE = 4096
QUESTIONS = ("/", "/export.csv", "/api/stations", "/api/readings?station=inside", "/healthz",
             update_path(INSIDE, 5, more="/seq=new"))


@pytest.fixture
def whole(database):
    """The bytes of a database with something in it."""
    with closing(InProcess(database)) as server:
        for number in range(200):
            server.time += 60
            server.update(INSIDE, 20 + number % 7, more=f"/seq={number}")
            server.update(OUTSIDE, 10 + number % 5, field=2, more=f"/seq={number}")
    return database.read_bytes()


def flip(data, page):
    """The kind of a page's tree; of the first page, which has the header of the file before it."""
    data[page * PAGE + (0 if page else 100)] ^= 0xff


def erase(data, page):
    data[page * PAGE:(page + 1) * PAGE] = bytes(PAGE)


def erase_sector(data, page):
    data[(page + 1) * PAGE - 512:(page + 1) * PAGE] = bytes(512)


def scatter(data, page):
    chance = random.Random(page)
    for _ in range(16):
        data[page * PAGE + chance.randrange(PAGE)] = chance.randrange(256)


def cut(data, page):
    """A file that is empty becomes a database: so at least one byte stays."""
    del data[page * PAGE + 1:]


def damaged(whole, how, page, folder):
    folder.mkdir()
    data = bytearray(whole)
    how(data, page)
    (folder / "iot.db").write_bytes(data)
    return folder / "iot.db"


def look(path):
    """Values and stations. Nobody can know that a reading's time is a little wrong."""
    with closing(iotserver.Reader(path)) as reader:
        return ([(name, number, value) for _, name, _, number, value, _ in rows_of(path)],
                [(station.name, station.mac, station.role) for station in reader.stations()])


@pytest.mark.parametrize(("how", "is_always_found"), [
    (flip, True), (erase, True), (cut, True), (erase_sector, False), (scatter, False)])
def test_check_finds_damage_to_each_page(whole, database, tmp_path, capsys, how, is_always_found):
    before = look(database)
    for page in range(len(whole) // PAGE):
        path = damaged(whole, how, page, tmp_path / str(page))
        data = path.read_bytes()
        if data == whole:
            continue
        status = iotserver.main(["--check", "--db", str(path)])
        assert status == 1 or (not is_always_found and look(path) == before), page
        said = capsys.readouterr()
        assert (said.out == "ok\n") == (status == 0)
        assert re.match(r"iotserver: [\s\S]*(damaged[;:] restore|is not an SQLite)|^$", said.err)
        assert path.read_bytes() == data


def start_on(path, script=SCRIPT):
    """A server on a damaged file refuses to start, ends, or goes on, never with a wrong answer."""
    data, statuses = path.read_bytes(), []
    with living(path.parent, command=(script,)) as live:
        live.expected = r"(iotserver: (?!.*Traceback)[^\n]*\n)*"
        with suppress(OSError, ValueError, TypeError):      # no answer; no port
            for question in QUESTIONS:
                statuses.append(live.get(question).status)
        is_there = len(statuses) == len(QUESTIONS)
        status = live.stop() if is_there else live.process.wait(20)
    assert {*statuses} <= {200, 503}
    assert status == (0 if is_there else 74 if live.port else 1)
    assert status != 1 or path.read_bytes() == data, "a refused file is left as it is"
    return status


@pytest.mark.parametrize(("how", "expected"), [(flip, {0, 1, 74}), (cut, {0, 1})])
def test_start_on_a_damaged_file(whole, tmp_path, how, expected):
    pages = range(len(whole) // PAGE)
    paths = [damaged(whole, how, page, tmp_path / str(page)) for page in pages]
    assert {*for_each(start_on, paths)} == expected


def garble_schema(data, _):
    data[data.index(b"CREATE TABLE station") + 13] = 0xff


def test_start_on_a_schema_that_is_no_text(whole, tmp_path):
    assert start_on(damaged(whole, garble_schema, 0, tmp_path / "0")) == 1


BEGIN_ANEW = """
def begin_anew(self, path, begin=Writer.__init__):
    path.unlink(missing_ok=True)
    begin(self, path)


Writer.__init__ = begin_anew
"""


def test_a_server_that_begins_anew_is_found_out(whole, tmp_path):
    path, main = damaged(whole, erase, 0, tmp_path / "0"), 'if __name__ == "__main__":'
    assert start_on(path) == 1
    with pytest.raises(AssertionError):
        start_on(path, broken(tmp_path, (main, BEGIN_ANEW + main)))


def test_folder_instead_of_a_file_is_refused(run, tmp_path):
    run("--db", tmp_path, "--port", "0", status=1, stderr="irectory")
