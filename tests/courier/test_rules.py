"""What a household is told, played at high speed: once, what is true, and not at night."""
import json
import sqlite3
import time
from datetime import datetime
from types import SimpleNamespace

import pytest
from harness import NOON, finish
from household import Line

import iotserver
from iotserver import DAY, HOUR, MINUTE

pytestmark = pytest.mark.slow

TWO_ROOMS = (("attic", "inside"), ("cellar", "inside"), ("outside", "outside"))


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """A failed try is followed by the next one at once."""
    monkeypatch.setattr(iotserver, "PAUSES", (0, 0))


def test_open_and_close_and_nothing_else(household, hook):
    home = household()
    home.play(30, inside=26.4, outside=25.2)
    home.play(30, inside=26.4, outside=29)
    home.play(30, inside=26.4, outside=20)
    assert hook.kinds == ["open", "close", "open"]
    assert hook.texts[0] == (
        "Open the windows: it is 1.2 °C cooler outside (inside 26.4, outside 25.2).")


def test_the_courier_asks_each_second(household):
    """So that a message arrives within 5 s of its cause."""
    home = household()
    assert home.messengers[0].step(Line(home.house.server)) <= 1


@pytest.mark.parametrize(("units", "text"), [
    ("F", "Open the windows: it is 2.1 °F cooler outside (inside 79.5, outside 77.4)."),
    ("auto", "Open the windows: it is 1.2 °C / 2.1 °F cooler outside "
             "(inside 26.4 / 79.5, outside 25.2 / 77.4).")])
def test_units_are_those_of_the_page_or_both(household, hook, units, text):
    household(units=units).play(1, inside=26.4, outside=25.2)
    assert hook.texts == [text]


def test_who_was_not_told_to_open_is_not_told_to_close(household, hook):
    home = household()
    home.play(5, inside=26, outside=30)
    home.play(20, inside=21, outside=30)
    assert hook.kinds == []


def test_comfortable_is_a_close_when_it_is_warmer_outside(household, hook):
    home = household()
    home.play(20, inside=26, outside=20)
    home.play(60, inside=21, outside=20)
    assert hook.kinds == ["open"], "nothing to do"
    home.play(60, inside=21, outside=23)
    assert hook.kinds == ["open", "close"]
    assert hook.texts[1].startswith("Comfortable inside: but it is 2 °C warmer outside")


def test_what_hovers_is_said_once(household, hook):
    home = household()
    home.play(1, inside=26, outside=24)
    for i in range(6 * 60):
        home.play(1, inside=26, outside=26 + (0.3, -0.3)[i % 2])
    assert hook.kinds == ["open"]


def test_what_is_no_longer_true_is_not_sent(household, hook):
    home = household()
    hook.behave = 500
    home.play(20, inside=26, outside=20)
    home.play(20, inside=26, outside=30)
    assert hook.kinds == []
    hook.behave = 200
    home.play(5, inside=26, outside=30)
    assert hook.kinds == [], "no close to who was not told to open"
    home.play(20, inside=26, outside=20)
    assert hook.kinds == ["open"]


def test_what_is_an_hour_old_is_not_sent(household, hook):
    home = household()
    hook.behave = 503
    home.play(61, inside=26, outside=20)
    hook.behave = 200
    home.play(30, inside=26, outside=20)
    home.restart()
    home.play(30, inside=26, outside=20)
    assert hook.kinds == []
    home.play(30, inside=26, outside=30)
    home.play(30, inside=26, outside=20)
    assert hook.kinds == ["open"]


def test_what_the_server_comes_to_know_late_is_told_with_its_time(household, hook):
    """A console uploads each two hours; its hour begins when the server has seen it."""
    home = household()
    home.play(5, inside=26, outside=28)
    home.house.time += 2 * 3600
    now, server = round(home.house.time * 1000), home.house.server
    for age in range(110, -1, -10):
        for station in server.writer.stations.values():
            outside = 20 if age <= 80 else 28
            server.writer.add(station, iotserver.Reading(
                1, 26 if station.role == "inside" else outside, age * 60_000, None), now)
    server.turn.end()
    hook.behave = 503
    home.play(30, inside=26, outside=20)
    hook.behave = 200
    home.play(10, inside=26, outside=20)
    message, = hook.messages
    since = int(iotserver.parse_time(message["time"]))
    assert now - 80 * 60_000 <= since <= now - 60 * 60_000
    shown = datetime.fromtimestamp(since / 1000).strftime("since %H:%M")
    assert shown in message["message"]
    home.play(20, inside=26, outside=30)
    assert hook.kinds == ["open", "close"]
    assert "since" not in hook.texts[1]


def test_an_untold_close_is_no_reason_for_a_second_open(household, hook):
    home = household()
    home.play(20, inside=26, outside=20)
    hook.behave = 500
    home.play(70, inside=26, outside=30)
    hook.behave = 200
    home.play(20, inside=26, outside=20)
    assert hook.kinds == ["open"]


def test_at_the_end_of_quiet_hours_what_is_true_is_told_once(household, hook):
    """NOON is 12:00 UTC: quiet from 12:30 to 18:00."""
    home = household(quiet="12:30-18:00 UTC")
    home.play(10, inside=26, outside=20)
    assert hook.kinds == ["open"]
    home.play(20, inside=26, outside=20)
    home.play(120, inside=26, outside=30)
    home.play(60, inside=26, outside=20)
    home.play(60, inside=26, outside=30)
    assert hook.kinds == ["open"]
    home.restart()
    home.play(120, inside=26, outside=30)
    assert hook.kinds == ["open", "close"]
    assert hook.messages[1]["time"].startswith("2018-07-30T15:32"), "when the verdict changed"


def test_nothing_is_told_again_after_a_restart(household, hook):
    home = household()
    for _ in range(5):
        home.play(4, inside=26, outside=20)
        home.restart()
    assert hook.kinds == ["open"]


def test_each_destination_is_told_by_itself(household, hook, receiver):
    other = receiver()
    home = household(notify=f"json://127.0.0.1:{hook.port}/a json://127.0.0.1:{other.port}/b")
    other.behave = 403
    home.play(10, inside=26, outside=20)
    assert (hook.kinds, other.kinds) == (["open"], [])
    other.behave = 200
    home.play(10, inside=26, outside=20)
    assert (hook.kinds, other.kinds) == (["open"], ["open"]), "a token can be mended"
    assert hook.messages[0]["id"] == other.messages[0]["id"]


def test_a_message_keeps_its_id(household, hook):
    home = household()
    hook.behave = 500
    home.play(5, inside=26, outside=20)
    home.restart()
    hook.behave = 200
    home.play(5, inside=26, outside=20)
    assert len(hook.requests) > 2
    assert len({request.json["id"] for request in hook.requests}) == 1


# -- several rooms --------------------------------------------------------------------------------


def test_one_message_names_all_rooms(household, hook):
    home = household(*TWO_ROOMS)
    home.play(1, attic=30, cellar=26, outside=20)
    message, = hook.messages
    assert message["message"] == (
        "attic: Open the windows: it is 10 °C cooler outside (inside 30.0, outside 20.0).; "
        "cellar: Open the windows: it is 6 °C cooler outside (inside 26.0, outside 20.0).")
    assert message["station"] == "attic; cellar"
    home.play(20, attic=30, cellar=26, outside=28)
    assert [(m["kind"], m["station"]) for m in hook.messages[1:]] == [("close", "cellar")]


def test_with_ntfy_each_room_has_a_line_that_changes(household, hook):
    home = household(*TWO_ROOMS, notify=f"ntfy://tk_secret@127.0.0.1:{hook.port}/house",
                     link="http://weather.lan/")
    home.play(1, attic=30, cellar=26, outside=20)
    home.play(20, attic=30, cellar=26, outside=28)
    home.play(20, attic=30, cellar=26, outside=20)
    attic, cellar, *more = hook.messages
    assert attic["title"] == "attic: Open the windows"
    assert attic.keys() == {"topic", "title", "message", "priority", "sequence_id", "click"}
    assert (attic["topic"], attic["click"]) == ("house", "http://weather.lan/")
    assert attic["sequence_id"] != cellar["sequence_id"]
    assert [m["sequence_id"] for m in more] == [cellar["sequence_id"]] * 2
    assert {(r.path, r.headers["Authorization"]) for r in hook.requests} == {
        ("/", "Bearer tk_secret")}


def test_with_ntfy_rooms_registered_at_once_have_lines_of_their_own(household, hook):
    """As those of a console are, of one import, and of one report with many channels."""
    home = household(notify=f"ntfy://127.0.0.1:{hook.port}/house")
    for name in ("attic", "cellar"):
        home.house.writer.add_station(name, f"mac-{name}", "inside", None, home.now)
    home.play(1, attic=30, cellar=30, outside=20)
    attic, cellar = hook.messages
    assert attic["sequence_id"] != cellar["sequence_id"]
    assert {m["title"] for m in hook.messages} == {
        "attic: Open the windows", "cellar: Open the windows"}


# -- silence --------------------------------------------------------------------------------------


def test_a_silent_station_and_its_return(household, hook):
    home = household()
    home.play(10, inside=21, outside=20)
    home.play(59, inside=21)
    assert hook.kinds == []
    home.play(60, inside=21)
    home.restart()
    home.play(60, inside=21)
    assert hook.kinds == ["silent"]
    assert hook.texts == ['“outside” has been silent for 1 h.']
    assert hook.messages[0]["state"] is None
    home.play(10, inside=21, outside=20)
    assert hook.kinds == ["silent", "back"]


def test_time_without_a_server_is_no_silence(household, hook):
    home = household()
    home.play(10, inside=21, outside=20)
    home.house.time += 5 * HOUR / 1000
    home.restart()
    home.play(59, inside=21)
    assert hook.kinds == []
    home.play(3, inside=21)
    assert hook.kinds == ["silent"]


def test_a_station_that_seldom_sends_is_not_silent(household, hook):
    home = household()
    for _ in range(6):
        home.play(1, inside=21, outside=20)
        home.play(80, inside=21)
    assert hook.kinds == ["silent", "back"], "until its pause is known"


def test_without_a_role_or_readings_nothing_is_said(household, hook):
    home = household(("inside", "inside"), ("outside", "outside"), ("shed", None))
    home.play(1, inside=26, shed=20)
    home.play(70, inside=26)
    assert hook.kinds == []
    home.house.writer.edit_station("inside", None, None, "none")
    home.house.server.board.expires = 0
    home.play(120)
    assert hook.kinds == []


def test_a_station_that_is_removed_is_told_of_no_more(household, hook):
    home = household(*TWO_ROOMS)
    home.play(1, attic=30, cellar=26, outside=20)
    for _ in range(3):
        home.house.writer.remove_step("cellar")
        if "cellar" not in {s.name for s in home.house.writer.stations.values()}:
            break
    home.house.server.board.expires = 0
    home.play(20, attic=30, outside=35)
    assert hook.texts[1:] == [
        "Keep the windows closed: it is 5 °C warmer outside (inside 30.0, outside 35.0)."]


# -- the plan -------------------------------------------------------------------------------------


def test_a_plan_is_told_once_a_day_when_it_is_hot(household, hook, monkeypatch):
    said = iotserver.Forecast("cooler", NOON + 8 * HOUR, NOON + 7 * HOUR, NOON + 9 * HOUR, 0.9,
                              iotserver.FEWEST_DAYS, (), ())
    monkeypatch.setattr(iotserver, "fresh_forecast", lambda room, *_: room.verdict and said)
    home = household(notify_plan="12:30 UTC")
    home.play(20, inside=26, outside=30)
    assert hook.kinds == []
    for _ in range(3):
        home.play(30, inside=26, outside=30)
        home.restart()
    assert hook.kinds == ["plan"]
    assert hook.texts == ["Cooler outside from about 20:00 (19:00 to 21:00)."]
    home.house.time += DAY / 1000
    home.restart()
    home.play(30, inside=21, outside=21)
    assert hook.kinds == ["plan"], "it is not hot"


def test_a_plan_is_told_no_more_once_it_is_not_asked_for(household, hook, monkeypatch):
    """Within the hour in which it was, and after the forecast is gone: the rest is told."""
    said = iotserver.Forecast("cooler", NOON + 8 * HOUR, NOON + 7 * HOUR, NOON + 9 * HOUR, 0.9,
                              iotserver.FEWEST_DAYS, (), ())
    known = [said]
    monkeypatch.setattr(iotserver, "fresh_forecast",
                        lambda room, *_: known[0] if room.verdict else None)
    home = household(notify_plan="12:05 UTC")
    hook.behave = 503
    home.play(20, inside=26, outside=30)
    hook.behave, known[0], home.flags["notify_plan"] = 200, None, ""
    home.restart_courier()
    home.play(10, inside=26, outside=20)
    assert hook.kinds == ["open"]


# -- ntfy tells that the house is cut off ---------------------------------------------------------


@pytest.mark.parametrize(("quiet", "delay"), [
    ("", 45), ("12:40-13:00 UTC", 60), ("11:00-12:30 UTC", None)])
def test_a_message_that_comes_unless_it_is_put_off(household, hook, monkeypatch, quiet, delay):
    monkeypatch.setattr(iotserver, "now_ms", lambda: NOON)
    home = household(notify=f"ntfy://127.0.0.1:{hook.port}/house?alive=45m", quiet=quiet)
    for _ in range(3):
        home.carry()
    alive, = hook.messages
    assert alive["delay"] == f"{(delay or 45) * 60}s"
    home.messengers[0].renews -= 16 * 60
    home.carry()
    again = hook.messages[1]
    assert again["sequence_id"] == alive["sequence_id"]


def test_what_is_put_off_keeps_nothing_back(household, hook, monkeypatch):
    """A server of ntfy's without a cache refuses it, for ever."""
    monkeypatch.setattr(iotserver, "PAUSES", (0, 300))
    home = household(notify=f"ntfy://127.0.0.1:{hook.port}/house?alive=45m")
    hook.refuses = "delay"
    home.carry()
    home.play(1, inside=26, outside=20)
    home.carry()
    assert [m["title"] for m in hook.messages] == ["Open the windows"]
    messenger, = home.messengers
    assert messenger.next_try == 0, "nothing that comes now has to wait"
    post = iotserver.part_of(home.house.server, iotserver.Post)
    house, (failed,) = home.house, post.failing.values()
    assert "alive=" in failed[2]
    assert [r.status for r in hook.requests].count(400) == 1, "and it is not tried each second"
    messenger.renews = hook.refuses = 0
    home.carry()
    assert iotserver.part_of(house.server, iotserver.Post).failing == {}


def test_a_word_of_a_webhook_is_its_own(household, hook):
    home = household(notify=f"json://127.0.0.1:{hook.port}/hook?alive=true")
    home.play(1, inside=26, outside=20)
    assert hook.kinds == ["open"]
    assert hook.requests[0].path == "/hook?alive=true"


# -- troubles -------------------------------------------------------------------------------------


def choosy(hook, monkeypatch, *words):
    """A destination that refuses messages with one of these words for good, and a clock."""
    clock = SimpleNamespace(**{**vars(time), "now": 1000.0, "monotonic": lambda: clock.now})
    monkeypatch.setattr(iotserver, "time", clock)
    hook.judge = lambda json: 400 if any(word in json["message"] for word in words) else 200
    return clock


def test_a_message_that_is_refused_costs_none_of_the_others(household, hook, capfd, monkeypatch):
    """Not even one with which it was joined, nor one that comes while it is tried again."""
    clock = choosy(hook, monkeypatch, "attic:")
    home = household(("attic", "inside"), ("cellar", "inside"), ("outside", "outside"))
    home.play(1, attic=26, cellar=26, outside=20)
    for _ in range(200):
        clock.now += 1
        home.carry()
    assert [text for text in hook.texts if "cellar:" in text] == hook.texts
    assert len(hook.texts) == 1
    assert len([r for r in hook.requests if r.status == 400]) == iotserver.MAX_REFUSED
    said = capfd.readouterr().err
    assert said.count("; dropped: ") == 1
    assert "courier: json://127.0.0.1: it answers 400" in said
    hook.judge = None
    home.play(20, attic=26, cellar=26, outside=30)
    assert [("cellar:" in text, "attic:" in text) for text in hook.texts[1:]] == [(True, False)], \
        "who was not told to open is not told to close"


def test_what_comes_after_a_refused_message_does_not_wait(household, hook, monkeypatch):
    choosy(hook, monkeypatch, "Open")
    home = household(("attic", "inside"), ("outside", "outside"))
    home.play(1, attic=26, outside=20)
    assert [r.status for r in hook.requests] == [400]
    home.house.time += 3 * HOUR / 1000
    home.carry()
    home.house.server.monotonic = lambda: home.house.time
    home.carry()
    assert {"silent"} == {*hook.kinds}, "at once, although the clock of pauses stands still"


def test_one_that_refuses_everything_is_named_on_the_page(household, hook, monkeypatch):
    choosy(hook, monkeypatch, "")
    home = household()
    home.play(80, inside=26, outside=20)
    assert "Messages to json://127.0.0.1 have failed for an hour" in home.house.page().text


def test_clocks_that_jump_make_no_flood(household, hook):
    home = household()
    home.play(10, inside=26, outside=20)
    for jump in (DAY, -DAY, 3650 * DAY, -3650 * DAY, HOUR, -HOUR, 90 * MINUTE):
        home.house.time += jump / 1000
        home.play(10, inside=26, outside=20)
    assert hook.kinds.count("open") == 1
    assert len(hook.kinds) == 1


def test_what_could_not_be_noted_is_not_sent_again(household, hook, monkeypatch):
    """A full disk: the courier remembers what it has done until the server can."""
    home = household()
    tell, is_full = iotserver.Post.tell, [False]

    def full(writer, destination, *more):
        if is_full[0]:
            raise sqlite3.OperationalError("database or disk is full")
        return tell(writer, destination, *more)
    monkeypatch.setattr(iotserver.Post, "tell", full)
    home.play(1)
    is_full[0] = True
    with pytest.raises(iotserver.StoreError, match="full"):
        home.play(1, inside=26, outside=20)
    assert hook.requests == [], "what is not stored is not sent"
    is_full[0] = False
    messenger, line = home.messengers[0], Line(home.house.server)
    send = messenger.send
    messenger.send = lambda message: send(message) or is_full.__setitem__(0, True)
    for _ in range(4):
        with pytest.raises(iotserver.StoreError, match="full"):
            messenger.step(line)
    is_full[0] = False
    home.play(5, inside=26, outside=20)
    assert hook.kinds == ["open"]


def test_a_destination_that_has_failed_for_an_hour_is_named(household, hook, capfd):
    home = household(notify=f"json://me:s3cr3t@127.0.0.1:{hook.port}/h1dden?token=abcdef")
    hook.behave = 403
    for minutes, is_said in ((50, False), (30, True)):
        home.play(minutes, inside=26, outside=20)
        page = home.house.page()
        assert ("Messages to json://127.0.0.1 have failed for an hour: it answers 403."
                in page.text) == is_said
    said = capfd.readouterr().err
    assert said.count("have failed for an hour") == 1
    assert said.count("courier: json://127.0.0.1: it answers 403") > 0
    hook.behave = 200
    home.play(20, inside=26, outside=30)
    home.play(20, inside=26, outside=20)
    assert "have failed" not in home.house.page().text
    assert iotserver.part_of(home.house.server, iotserver.Post).counts["sent"] == 1
    assert iotserver.part_of(home.house.server, iotserver.Post).counts["failed"] > 10
    home.house.server.turn.end()
    everything = home.path.read_bytes() + said.encode() + home.house.get("/").body
    everything += home.path.with_name(home.path.name + "-wal").read_bytes()
    for secret in (b"s3cr3t", b"h1dden", b"abcdef"):
        assert secret not in everything


def test_what_the_socket_is_told_by_others_does_no_harm(household, hook):
    home = household()
    counter = iotserver.CourierSocket(home.house.server)
    id = home.messengers[0].to.id
    answer = finish(counter.execute(
        b'["note", ["%b", "json://x", [[4711, "verdict", "open"]], ""]]' % id.encode()))
    assert answer == b'{"result":null}'
    for text in (b'["note", ["0123456789abcdef", "json://x", [[1, "verdict", "open"]], ""]]',
                 b'["collect", ["0123456789abcdef", [], "", ""]]'):
        assert b"no such destination" in finish(counter.execute(text))
    home.play(1, inside=26, outside=20)
    assert hook.kinds == ["open"]


def test_invented_destinations_cost_little(household, hook):
    """Where a courier alone knows the settings, the server has to believe it."""
    home = household()
    home.play(1, inside=26, outside=20)
    home.house.server.settings.notify = ""
    counter = iotserver.CourierSocket(home.house.server)
    for number in range(300):
        finish(counter.execute(json.dumps(["note", [
            f"{number:016x}", "x" * 9999, [[1, "verdict", "open"]], "y" * 9999]]).encode()))
    server = home.house.server
    assert len(iotserver.part_of(server, iotserver.Post).failing) <= iotserver.MAX_DESTINATIONS
    failing = iotserver.part_of(server, iotserver.Post).failing.values()
    assert max(len(why) for _, _, why in failing) <= iotserver.MAX_WORDS
    count, = server.writer.db.execute("SELECT count(DISTINCT destination) FROM told").fetchone()
    assert count <= iotserver.MAX_DESTINATIONS + 1
