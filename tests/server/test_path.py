"""How many functions of the file one request passes through: a path that is short can be read."""
import sys

import pytest
from harness import INSIDE, OUTSIDE, request, update_path

import iotserver


def calls(server, connection, raw):
    """The functions of iotserver.py that are called from the bytes of a request to its answer."""
    called = []

    def note(frame, event, argument):
        code = frame.f_code
        if event == "call" and code.co_filename == iotserver.__file__ and code.co_name[0] != "<":
            called.append(code.co_name)
    before = len(connection.transport.sent)
    sys.setprofile(note)
    try:
        connection.data_received(raw)
        server.server.loop.run()
    finally:
        sys.setprofile(None)
    assert connection.transport.sent[before:].startswith(b"HTTP/1.1 200 ")
    return called


def test_an_update_passes_through_25_functions(in_process):
    """The second one of a station, with another value; rate limit, store and commit included."""
    server = in_process(rate_limit=60)
    connection = server.connect()
    calls(server, connection, request("GET", update_path(INSIDE, 21.5)))
    called = calls(server, connection, request("GET", update_path(INSIDE, 21.6)))
    assert {"admit", "add", "commit", "render"} <= {*called}
    assert len(called) <= 25, " ".join(called)


@pytest.mark.parametrize("more", [{}, {"Cookie": "tz=Europe/Berlin", "Accept_Language": "en-US"}])
def test_a_page_at_hand_passes_through_15(server, more):
    server.update(INSIDE, 26)
    server.update(OUTSIDE, 23)
    connection = server.connect()
    raw = request("GET", "/", **more)
    assert "render_page" in calls(server, connection, raw)
    called = calls(server, connection, raw)
    assert {"find_page", "render"} <= {*called}
    assert len(called) <= 15, called
