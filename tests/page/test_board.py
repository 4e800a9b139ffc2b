"""Pages at hand, and listeners: nothing is made twice, and nothing is lost in between."""
import re
import zoneinfo

from harness import INSIDE, OUTSIDE, request, update_path

import iotserver

ZONES = sorted(zoneinfo.available_timezones())[:iotserver.MAX_PAGES + 1]


def test_a_page_more_than_fit_makes_one_go(server):
    server.update(INSIDE, 26)
    board = server.server.board
    for zone in ZONES[:iotserver.MAX_PAGES]:
        server.get("/", Cookie=f"tz={zone}")
    pages = dict(board.pages)
    assert len(pages) == iotserver.MAX_PAGES
    for zone in ZONES[:iotserver.MAX_PAGES]:
        server.get("/", Cookie=f"tz={zone}")
    assert board.pages == pages, "what is at hand is not made again"
    server.get("/", Cookie=f"tz={ZONES[-1]}")
    assert len(board.pages) == iotserver.MAX_PAGES
    assert len(board.pages.keys() & pages.keys()) == iotserver.MAX_PAGES - 1


def test_a_listener_gets_all_that_is_told_after_its_greeting(server):
    """Also when its request came right behind an update, and a verdict changes in that turn."""
    for _ in range(3):
        server.update(INSIDE, 26)
        server.update(OUTSIDE, 29)
        server.time += 60
    iotserver.tell_news(server.server)
    connection = server.connect()
    connection.data_received(request("GET", update_path(INSIDE, 27)) + request("GET", "/events"))
    assert connection.transport.sent == b"", "the update waits for its commit"
    server.server.writer.add(server.writer.by_mac[OUTSIDE.mac], iotserver.Reading(1, 20, 0, None),
                             server.server.now())
    for _ in range(3):
        server.time += 600
        for station, value in ((INSIDE, 27), (OUTSIDE, 20)):
            server.server.writer.add(server.writer.by_mac[station.mac],
                                     iotserver.Reading(1, value, 0, None), server.server.now())
        iotserver.tell_news(server.server)
    sent = connection.transport.sent.decode()
    assert re.findall(r"event: (\w+)", sent)[:2] == ["hello", "verdict"]
    assert '"state":"open"' in sent
    assert sent.count("event: reading") == 8


def test_a_command_has_open_pages_ask_again(server):
    connection = server.connect()
    connection.data_received(request("GET", "/events"))
    control = iotserver.Control(server.server)
    assert b"error" not in control.execute(b'["label", ["inside", 1, "attic"]]')
    iotserver.tell_news(server.server)
    assert connection.transport.sent.count(b"event: reset\ndata: {}\n\n") == 1
    assert b"attic" in server.get("/api/stations").body
