"""Pages at hand, and listeners: nothing is made twice, and nothing is lost in between."""
import itertools
import json
import random
import re
import zoneinfo

import pytest
from harness import INSIDE, NOON, OUTSIDE, finish, request, stepwise, update_path

import iotserver
from iotserver import MINUTE

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
    assert 'class="big">25.0' in server.get("/").text
    server.update(INSIDE, 26)
    look = stepwise(server.server.board.look())
    next(look)
    phone = server.connect()
    phone.data_received(request("GET", "/"))
    server.server.loop.run()
    assert phone.transport.sent == b""
    for _ in look:
        pass
    server.server.loop.run()
    assert b'class="big">26.0' in phone.transport.sent


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
    (["label", ["inside", 2, "den"]], "humidity </span>50%", ">den</span> <b>50"),
    (["add_station", ["attic", "aa", None, None, 0]], "", "<li>attic<b"),
    (["add_station", ["attic", "aa", None, "00" * 32, 0, [], [["loft", "b", None, []]]]],
     "", "<li>loft<b"),
    (["edit_station", ["inside", "attic", None, None]], "<li>inside<b", "<li>attic<b"),
    (["remove_step", ["outside"]], "<li>outside<b", ""),
    (["delete_step", ["inside", 1, NO_LIMITS]], '"big">26.0<', ""),
    (["prune_step", [iotserver.LATEST_TIME]], '"big">26.0<', ""),
    (["import_rows", [[[NOON - 1000, "attic", "aa", 1, 21.0, None]], NOON]], "", "<li>attic<b"),
], ids=lambda value: value[0] if isinstance(value, list) else "")
def test_a_command_has_open_pages_ask_again(server, line, gone, new):
    """And they get what it changed, although no reading came and the minute is not over."""
    for field, value in ((1, 26), (2, 50)):
        server.update(INSIDE, value, field)
    before = server.get("/").text
    connection = server.connect()
    connection.data_received(request("GET", "/events"))
    control = iotserver.Control(server.server)
    assert b"error" not in finish(control.execute(iotserver.as_json(line)))
    server.tell_news()
    assert connection.transport.sent.count(b"event: reset\ndata: {}\n\n") == 1
    after = server.get("/").text
    assert not gone or (gone in before and gone not in after)
    assert not new or (new not in before and new in after)


# -- looks ----------------------------------------------------------------------------------------

def restarted(server):
    """The verdict of a server that starts at this instant: it has readings and courses."""
    board = iotserver.Board(server.reader, server.server.settings, server.server.now)
    return finish(board.look())[0].verdict


def test_a_silence_begins_when_it_does_after_a_restart(server):
    """How long a station may be quiet follows from its pauses, also when those of long ago are
    no longer read. This one sends its temperature in bursts, and its humidity all the time."""
    seen = []
    for minute in range(0, 620, 2):
        server.update(INSIDE, 26)
        if minute % 60 < 4 and minute < 400:
            server.update(OUTSIDE, 20)
        server.update(OUTSIDE, 50 + minute % 7, field=2)
        verdict = finish(server.server.board.look())[0].verdict
        assert verdict == restarted(server)
        seen.append((verdict.state, verdict.silent))
        finish(iotserver.keep_courses(server.server))
        server.time += 120
    assert {*seen} == {("open", None), ("unknown", "outside")}


def test_a_repeated_update_is_heard_too(server):
    """It stores no reading, but its station was not silent, as a restart would say at once."""
    for minute in range(22):
        if minute < 6:
            server.update(INSIDE, 26, more=f"/seq=s{minute}")
        server.update(OUTSIDE, 20)
        assert finish(server.server.board.look())[0].verdict == restarted(server)
        server.time += 60
    assert restarted(server).silent == "inside"
    server.update(INSIDE, 26, more="/seq=s5")
    assert len(server.rows()) == 28
    assert finish(server.server.board.look())[0].verdict == restarted(server)
    assert restarted(server).state == "open"


def test_humidity_grows_old_without_a_reading(server):
    """Between two readings of a station that sends rarely."""
    seen = []
    for minute in range(0, 120, 2):
        if minute % 8 == 0:
            for station, value in ((INSIDE, 26), (OUTSIDE, 20)):
                server.update(station, value)
                if minute < 80:
                    server.update(station, 50, field=2)
        verdict = finish(server.server.board.look())[0].verdict
        assert verdict == restarted(server)
        seen.append(None not in verdict.dew_points)
        server.time += 120
    assert seen == sorted(seen, reverse=True)
    assert {*seen} == {True, False}


@pytest.mark.parametrize("seed", range(6))
def test_a_verdict_that_goes_on_is_that_after_a_restart(server, seed):
    """Readings in order, late ones, several in a minute, silences, commands that delete."""
    mix, seen = random.Random(seed), set()
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
                server.server.turn.end()
        if mix.random() < 0.05:
            now = server.server.now()
            control = iotserver.Control(server.server)
            finish(control.execute(iotserver.as_json(["delete_step", ["outside", 1, {
                "start": now - 5 * MINUTE, "end": now, "below": None, "above": None}]])))
        if mix.random() < 0.7:
            place, _ = finish(server.server.board.look())
            assert place.verdict == restarted(server)
            seen.add(place.verdict.state)
        if mix.random() < 0.1:
            finish(iotserver.keep_courses(server.server))
    assert seen >= {"open", "close"}


@pytest.mark.untraced
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
            room, = (place for place in finish(server.server.board.look()) if place.verdict)
            assert (room.verdict.state, room.outside.name) == ("open", "outside")
        server.time += 60
    assert server.get("/").text.count('<b class="state"> ok</b>') == 3


def test_only_what_was_touched_is_read_again(server, monkeypatch):
    read, real = [], iotserver.Reader.recent
    monkeypatch.setattr(iotserver.Reader, "recent", lambda reader, series, *more: (
        read.append(series), real(reader, series, *more))[1])
    board = server.server.board
    for station in (INSIDE, OUTSIDE):
        server.update(station, 25)
    server.time += 6 * 60
    for station in (INSIDE, OUTSIDE):
        server.update(station, 25)
    finish(iotserver.keep_courses(server.server))       # otherwise the room replays both
    finish(board.look())
    read.clear()
    server.update(OUTSIDE, 24)
    finish(board.look())
    assert {*read} == {server.writer.series[2, 1]}
    server.time += 20 * 60
    finish(board.look())
    assert {*read} == {*server.writer.series.values()}, "now and then all of them"
    assert board.current[0].verdict.state == "unknown"


@pytest.mark.parametrize("command", [
    lambda writer: writer.delete_step("outside", 1, {
        "start": 0, "end": iotserver.LATEST_TIME, "below": None, "above": None}),
    lambda writer: [*iter(lambda: writer.remove_step("outside"), -1)]], ids=["delete", "remove"])
def test_a_page_outlives_a_command_at_each_of_its_steps(in_process, command):
    """It may still say what was: the next one says what is."""
    for done in itertools.count(1):
        server = in_process(f"{done}.db")
        for station, value in ((INSIDE, 27), (OUTSIDE, 20)):
            server.update(station, value)
        finish(server.server.board.look())
        steps = stepwise(server.server.board.make_page(
            iotserver.View(iotserver.ENGLISH, "24h")))
        if len([*itertools.islice(steps, done)]) < done:
            break
        command(server.writer)
        for _ in steps:
            pass
        assert "20.0" not in server.get("/").text
    assert done > 5


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
    first = stepwise(board.look())
    next(first)
    server.update(OUTSIDE, 21)
    second = server.server.loop.create_task(board.look())
    server.server.loop.run()
    assert not second.done()
    for _ in first:
        pass
    server.server.loop.run()
    assert second.result()[1].readings[-1][1] == 21


def test_a_look_whose_client_is_gone_is_taken_again(server):
    """By those who have waited for it, and with all that it was to look at."""
    board = server.server.board
    server.update(INSIDE, 25)
    finish(board.look())
    server.update(INSIDE, 26)
    first = stepwise(board.look())
    next(first)
    second = server.server.loop.create_task(board.look())
    server.server.loop.run()
    first.close()
    server.server.loop.run()
    assert second.result()[0].readings[-1][1] == 26


def test_a_look_that_fails_is_taken_again(server, monkeypatch):
    board = server.server.board
    server.update(INSIDE, 25)
    with monkeypatch.context() as patch:
        patch.setattr(iotserver.Reader, "stations", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            finish(board.look())
    assert [place.name for place in finish(board.look())] == ["inside", "outside"]


def test_a_reading_of_the_future_counts_in_time(server):
    server.update(INSIDE, 25)
    server.update(OUTSIDE, 20)
    ahead = iotserver.format_time(server.server.now() + 5 * MINUTE)
    assert server.get(f"/update?api_key={OUTSIDE.key}&field1=22&created_at={ahead}").status == 200
    for ahead, newest in ((0, 20), (299.999, 20), (.001, 22)):
        server.time += ahead
        assert finish(server.server.board.look())[1].readings[-1][1] == newest


def test_when_the_clock_is_set_back_the_answer_is_that_of_a_restart(server):
    """A place that sends no more keeps nothing that is now of the future."""
    server.update(INSIDE, 25)
    server.update(OUTSIDE, 20)
    server.time += 7200
    server.update(INSIDE, 26)
    server.update(OUTSIDE, 29)
    assert [place.last.shown for place in finish(server.server.board.look())] == [26, 29]
    server.time -= 7100
    assert [place.last.shown for place in finish(server.server.board.look())] == [25, 20]
    server.update(INSIDE, 25.5)
    assert [place.last.shown for place in finish(server.server.board.look())] == [25.5, 20]
