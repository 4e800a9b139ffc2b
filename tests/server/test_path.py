"""Which functions of the file a reading and a request pass through, and how many: a short path
can be read."""
import contextlib
import hashlib
import re
import sys

import pytest
from harness import INSIDE, NOON, OUTSIDE, request, update_path
from household import Household

import iotserver


@contextlib.contextmanager
def noting():
    """The functions of iotserver.py that are called within the block, in their order."""
    called = []

    def note(frame, event, argument):
        code = frame.f_code
        if event == "call" and code.co_filename == iotserver.__file__ and code.co_name[0] != "<":
            called.append(code.co_name)
    sys.setprofile(note)
    try:
        yield called
    finally:
        sys.setprofile(None)


def calls(server, connection, raw):
    """The functions that are called from the bytes of a request to its answer."""
    before = len(connection.transport.sent)
    with noting() as called:
        connection.data_received(raw)
        server.server.loop.run()
    assert connection.transport.sent[before:].startswith(b"HTTP/1.1 200 ")
    return called


def the_way():
    """The names under *Follow a reading* in the docstring, in their order."""
    block = iotserver.__doc__.split("\nFollow a reading\n")[1].split("\n\n")[0]
    return [name for line in block.splitlines()
            for name in re.match(r"    ((?:\w+, )*\w+)  ", line)[1].split(", ")]


def first_missing(names, called):
    """The first of these names that is not called after those before it; None if all are."""
    rest = iter(called)
    return next((name for name in names if name not in rest), None)


def test_a_reading_goes_the_way_that_the_docstring_shows(tmp_path):
    """It turns the answer to `open`: on the disk, on the page, and in a message. The destination
    refuses it, which is after the last step."""
    house = Household(tmp_path / "iot.db", now=NOON, notify="json://127.0.0.1:9/x")
    with contextlib.closing(house):
        server = house.house
        server.writer.new_key("outside", hashlib.sha256(b"K").hexdigest())
        house.send(inside=26, outside=28)
        server.tell_news()
        house.carry()
        server.time += 1200
        house.send(inside=26)
        connection = server.connect()
        with noting() as called:
            connection.data_received(request(
                "GET", "/update/API_key=K/mac=mac-1/field=1/data=21.5"))
            server.server.loop.run()
            server.tell_news()
            connection.data_received(request("GET", "/"))
            server.server.loop.run()
            house.carry()
    assert len(the_way()) > 25
    assert first_missing(the_way(), called) is None


def test_a_step_that_is_missing_or_too_early_is_found():
    assert first_missing(["a", "b"], ["x", "a", "y", "b"]) is None
    assert first_missing(["a", "b"], ["b", "a"]) == "b"
    assert first_missing(["a", "c"], ["a", "b"]) == "c"


def test_an_update_passes_through_27_functions(in_process):
    """The second one of a station, with another value; rate limit, store and commit included,
    and the two by which a wing follows what is stored."""
    server = in_process(rate_limit=60)
    connection = server.connect()
    calls(server, connection, request("GET", update_path(INSIDE, 21.5)))
    called = calls(server, connection, request("GET", update_path(INSIDE, 21.6)))
    assert {"admit", "add", "commit", "render"} <= {*called}
    assert len(called) <= 27, " ".join(called)


@pytest.mark.parametrize("more", [{}, {"Cookie": "tz=Europe/Berlin", "Accept_Language": "en-US"}])
def test_a_page_at_hand_passes_through_17(server, more):
    server.update(INSIDE, 26)
    server.update(OUTSIDE, 23)
    connection = server.connect()
    raw = request("GET", "/", **more)
    assert "render_page" in calls(server, connection, raw)
    called = calls(server, connection, raw)
    assert {"find_page", "render"} <= {*called}
    assert len(called) <= 17, called
