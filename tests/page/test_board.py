"""Pages at hand, and listeners: nothing is made twice, and nothing is lost in between."""
import json
import random
import re
import zoneinfo

import pytest
from harness import INSIDE, NOON, OUTSIDE, request, update_path

import iotserver
from iotserver import HOUR, MINUTE, START, VERDICT_WINDOW

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


def test_who_asks_while_another_look_is_taken_gets_no_older_page(server):
    """Two phones ask at once for what one reading has changed."""
    server.update(INSIDE, 25)
    assert "class=big>25.0" in server.get("/").text
    server.update(INSIDE, 26)
    next(server.server.board.look())
    assert "class=big>26.0" in server.get("/").text


def test_a_listener_gets_all_that_is_told_after_its_greeting(server):
    """Also when its request came right behind an update, and a verdict changes in that turn."""
    for _ in range(3):
        server.update(INSIDE, 26)
        server.update(OUTSIDE, 29)
        server.time += 60
    server.tell_news()
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
        server.tell_news()
    sent = connection.transport.sent.decode()
    assert re.findall(r"event: (\w+)", sent)[:2] == ["hello", "verdict"]
    assert '"state":"open"' in sent
    assert sent.count("event: reading") == 8


NO_LIMITS = {"start": 0, "end": iotserver.LATEST_TIME, "below": None, "above": None}


@pytest.mark.parametrize(("line", "gone", "new"), [
    (["label", ["inside", 2, "den"]], "inside: humidity %", "inside: den"),
    (["add_station", ["attic", "aa", None, None, 0]], "", ">attic</th>"),
    (["add_console", ["attic", "aa", "00" * 32, 0]], "", ">attic</th>"),
    (["edit_station", ["inside", "attic", None, None]], ">inside</th>", ">attic</th>"),
    (["remove_step", ["outside"]], ">outside</th>", ""),
    (["delete_step", ["inside", 1, NO_LIMITS]], "big>26.0<", ""),
    (["prune_step", [iotserver.LATEST_TIME]], "big>26.0<", ""),
    (["import_rows", [[[NOON - 1000, "attic", "aa", 1, 21.0, None]], NOON]], "", ">attic</th>"),
], ids=lambda value: value[0] if isinstance(value, list) else "")
def test_a_command_has_open_pages_ask_again(server, line, gone, new):
    """And they get what it changed, although no reading came and the minute is not over."""
    for field, value in ((1, 26), (2, 50)):
        server.update(INSIDE, value, field)
    before = server.get("/").text
    connection = server.connect()
    connection.data_received(request("GET", "/events"))
    control = iotserver.Control(server.server)
    assert b"error" not in control.execute(iotserver.as_json(line))
    server.tell_news()
    assert connection.transport.sent.count(b"event: reset\ndata: {}\n\n") == 1
    after = server.get("/").text
    assert not gone or (gone in before and gone not in after)
    assert not new or (new not in before and new in after)


# -- looks ----------------------------------------------------------------------------------------

class Replay:
    """Verdicts from all readings of the longest window, each time."""

    def __init__(self, server):
        self.server, self.course = server, START

    def verdict(self):
        reader, now = self.server.reader, self.server.server.now()
        stations = reader.stations()
        sides = [[] if series is None else reader.recent(series, now - VERDICT_WINDOW, now + 1)
                 for series in (reader.series(station.id).get(1) for station in stations)]
        silences = [station.silence for station in stations]
        verdict = iotserver.judge(*sides, now, 22, self.course, silences)
        self.course = verdict.course
        return verdict


@pytest.mark.parametrize("seed", range(6))
def test_a_verdict_that_goes_on_is_that_of_all_readings(server, seed, monkeypatch):
    """Readings in order, late ones, several in a minute, silences, commands that delete."""
    monkeypatch.setattr(iotserver, "RECENT_WINDOW", VERDICT_WINDOW)
    mix, replay, seen = random.Random(seed), Replay(server), set()
    level = 26.0
    for _ in range(250):
        server.time += mix.choice([5, 20, 60, 60, 60, 180, 180, 900])
        server.time += 7200 * (mix.random() < 0.02)
        level += mix.choice([-0.6, -0.2, 0, 0, 0.2, 0.6]) + (26 - level) / 20
        for station, value in ((INSIDE, 26), (OUTSIDE, level)):
            if mix.random() < 0.8:
                writer, now = server.writer, server.server.now()
                age = mix.choice([0] * 12 + [30, 200, 1000]) * 1000
                writer.add_entry(writer.by_mac[station.mac], now - age,
                                 {1: round(value + mix.choice([0, 0.1, -9]) / 3, 2)}, now)
                writer.batch.now = 0            # so that what its pauses teach stays the same
                server.server.turn.end()
        if mix.random() < 0.05:
            now = server.server.now()
            control = iotserver.Control(server.server)
            control.execute(iotserver.as_json(["delete_step", ["outside", 1, {
                "start": now - 5 * MINUTE, "end": now, "below": None, "above": None}]]))
        if mix.random() < 0.7:
            place, _ = server.server.board.places()
            wanted = replay.verdict()
            assert place.verdict[:7] == wanted[:7]
            seen.add(wanted.state)
    assert seen >= {"open", "close"}


def test_batches_once_an_hour_are_no_silence(server):
    """Of an outside station; nor is another one, which sends each minute, taken instead."""
    server.writer.add_station("sun", "aa", "outside", None, 0)
    for minute in range(8 * 60):
        now = server.server.now()
        for mac, value, count in ((INSIDE.mac, 28, 1), ("aa", 40, 1),
                                  (OUTSIDE.mac, 20, 0 if minute % 60 else 6)):
            for ten in range(count)[::-1]:
                server.writer.add(server.writer.by_mac[mac],
                                  iotserver.Reading(1, value, ten * 10 * MINUTE, None), now)
        server.server.turn.end()
        if minute > 4 * 60:
            room, = (place for place in server.server.board.places() if place.verdict)
            assert (room.verdict.state, room.outside.name) == ("open", "outside")
        server.time += 60
    assert server.get("/").text.count("<td>ok</td>") == 3


def test_only_what_was_touched_is_read_again(server, monkeypatch):
    read, real = [], iotserver.Reader.recent
    monkeypatch.setattr(iotserver.Reader, "recent", lambda reader, series, *more: (
        read.append(series), real(reader, series, *more))[1])
    board = server.server.board
    for station in (INSIDE, OUTSIDE):
        server.update(station, 25)
    board.places()
    read.clear()
    server.update(OUTSIDE, 24)
    board.places()
    assert read == [server.writer.series[2, 1]]
    server.time += 20 * 60
    board.places()
    assert len(read) == 3, "now and then all of them, and a silence is noticed"
    assert board.current[0].verdict.state == "unknown"


def test_a_page_outlives_that_its_readings_are_deleted_while_it_is_made(server):
    for station, value in ((INSIDE, 27), (OUTSIDE, 20)):
        server.update(station, value)
    server.server.board.places()
    steps = server.server.board.make_page(iotserver.View("C", iotserver.timezone.utc, "24h"))
    next(steps)
    server.writer.delete_step("outside", 1, {
        "start": 0, "end": iotserver.LATEST_TIME, "below": None, "above": None})
    for _ in steps:
        pass


def test_a_listener_is_greeted_without_a_look(server, monkeypatch):
    """The first one reads the last two days of all stations: that is for steps."""
    for station, value in ((INSIDE, 27), (OUTSIDE, 20)):
        server.update(station, value)
    real = iotserver.Reader.recent
    with monkeypatch.context() as patch:
        patch.setattr(iotserver.Reader, "recent", None)
        connection = server.connect()
        connection.data_received(request("GET", "/events"))
    assert b"event: hello" in connection.transport.sent
    assert iotserver.Reader.recent is real
    server.tell_news()
    assert b'"state":"open"' in connection.transport.sent


def test_a_listener_is_greeted_with_the_difference_of_now(server):
    """Not with that of the last change, long ago."""
    for outside in (20, 20, 20, 23, 23, 23):
        server.update(INSIDE, 27)
        server.update(OUTSIDE, outside)
        server.tell_news()
        server.time += 60
    connection = server.connect()
    connection.data_received(request("GET", "/events"))
    verdict, = json.loads(re.search(rb"event: verdict\ndata: (.*)", connection.transport.sent)[1])
    assert (verdict["state"], verdict["difference"]) == ("open", 4)


def test_a_look_that_has_begun_does_not_miss_what_comes_meanwhile(server):
    board = server.server.board
    server.update(INSIDE, 25)
    server.update(OUTSIDE, 20)
    first, second = board.look(), None
    next(first)
    server.update(OUTSIDE, 21)
    second = board.look()
    while next(first, 1) is None:
        next(second, None)
    assert not [*second][9:]
    assert board.current[1].fresh[-1][1] == 21
    assert board.ended == board.begun


def test_a_look_that_fails_is_taken_again(server, monkeypatch):
    board = server.server.board
    server.update(INSIDE, 25)
    with monkeypatch.context() as patch:
        patch.setattr(iotserver.Reader, "stations", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            board.places()
    assert [place.name for place in board.places()] == ["inside", "outside"]


def test_a_reading_of_the_future_counts_in_time(server):
    server.update(INSIDE, 25)
    server.update(OUTSIDE, 20)
    ahead = iotserver.format_time(server.server.now() + HOUR)
    assert server.get(f"/update?api_key={OUTSIDE.key}&field1=29&created_at={ahead}").status == 200
    assert server.server.board.places()[1].readings[-1][1] == 20
    server.time += 3600 + 15 * 60
    assert server.server.board.places()[1].readings[-1][1] == 29
