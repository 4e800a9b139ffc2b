"""What is said, to whom, and when: the rules of messages, in single cases and always; and the URLs
of --notify, with Apprise's own parser as their judge."""
import itertools
from datetime import datetime
from zoneinfo import ZoneInfo

import apprise
import hypothesis.strategies as some
import pytest
from hypothesis import given

import iotserver as iot
from iotserver import DAY, HOUR, MINUTE, Clock, Destination, Usage

NOON = 1_532_952_000_000        # 2018-07-30T12:00:00Z in ms


def at(text, zone="UTC"):
    return round(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp() * 1000)


# -- clocks on the wall ---------------------------------------------------------------------------


@pytest.mark.parametrize(("quiet", "now", "ended"), [
    ("22:00-07:00", "2018-07-30 21:59", "2018-07-30 07:00"),
    ("22:00-07:00", "2018-07-30 22:00", None),
    ("22:00-07:00", "2018-07-31 06:59", None),
    ("22:00-07:00", "2018-07-31 07:00", "2018-07-31 07:00"),
    ("13:00-14:00", "2018-07-30 13:30", None),
    ("13:00-14:00", "2018-07-30 12:59", "2018-07-29 14:00"),
    ("0:00-23:59", "2018-07-30 23:58", None),
    ("22:00-07:00", "2018-03-25 06:59", None),          # that night has an hour less
    ("22:00-07:00", "2018-03-25 07:00", "2018-03-25 07:00"),
    ("22:00-07:00", "2018-10-28 06:59", None),          # and that one an hour more
    ("02:30-03:30", "2018-03-25 04:00", "2018-03-25 03:30"),        # 2:30 was not there at all
])
@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York"])
def test_quiet_hours(quiet, now, ended, zone):
    clocks = iot.parse_clocks(f"{quiet} {zone}", 2)
    assert iot.awake_since(clocks, at(now, zone)) == (ended and at(ended, zone))


def test_without_a_zone_it_is_that_of_the_machine(monkeypatch):
    monkeypatch.setenv("TZ", "America/New_York")
    iot.time.tzset()
    try:
        now = at("2018-07-30 22:30", "America/New_York")
        assert iot.awake_since(iot.parse_clocks("22:00-07:00", 2), now) is None
        assert iot.awake_since(iot.parse_clocks("22:00-07:00 Europe/Berlin", 2), now) is None
        assert iot.awake_since(iot.parse_clocks("22:00-04:00 Europe/Berlin", 2), now) == (
            at("2018-07-30 22:00", "America/New_York"))
    finally:
        monkeypatch.delenv("TZ")
        iot.time.tzset()


ZONES = some.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"])
TIMES = some.integers(DAY, 100 * 365 * DAY)


@given(some.integers(0, 23), some.integers(0, 59), ZONES, TIMES)
def test_a_clock_shows_its_time_once_a_day(hour, minute, zone, now):
    clock = Clock(hour, minute, tzinfo=ZoneInfo(zone))
    last = iot.last_at(clock, now)
    assert now - 25 * HOUR < last <= now, "a day has 25 hours at the most"
    shown = datetime.fromtimestamp(last / 1000, ZoneInfo(zone))
    was_skipped = abs((shown.hour - hour) % 24 - (0 if shown.minute == minute else 0.5)) <= 1
    assert (shown.hour, shown.minute) == (hour, minute) or was_skipped
    assert iot.last_at(clock, last) == last


@pytest.mark.parametrize("text", [
    "22:00", "22:00-22:00", "24:00-07:00", "22:60-07:00", "22-7", "22:00-07:00 Nowhere/Else",
    "22:00-07:00-08:00", "2²:00-07:00", "22:00-07:00 ../../etc/passwd", " ", "-"])
def test_what_are_no_quiet_hours_is_refused(text):
    with pytest.raises(iot.Usage):
        iot.parse_clocks(text, 2)


# -- what there is to say -------------------------------------------------------------------------


@pytest.mark.parametrize(("state", "inside", "outside", "is_cold", "kind"), [
    ("open", 26, 24, False, "open"),
    ("close", 26, 29, False, "close"),
    ("comfortable", 21, 18, False, ""),
    ("comfortable", 21, 21.4, False, ""),
    ("comfortable", 21, 21.6, False, "close"),
    ("comfortable", 17, 24, True, ""),          # then opening the windows warms the room
    ("unknown", None, None, False, "")])
def test_what_a_verdict_asks_for(state, inside, outside, is_cold, kind):
    difference = None if inside is None else inside - outside
    verdict = iot.Verdict(state, difference, NOON, None, None, inside, outside,
                          believed=difference, reason="cold" if is_cold else state)
    assert iot.choose_kind(verdict) == kind


@pytest.mark.parametrize(("state", "told", "is_news"), [
    ("open", "", True), ("open", "open", False), ("open", "close", True),
    ("close", "", False), ("close", "open", True), ("close", "close", False),
    ("silent", "", True), ("silent", "silent", False), ("silent", "back", True),
    ("back", "", False), ("back", "silent", True), ("back", "back", False),
    ("", "", False), ("", "open", False), ("", "close", False),
    ("2018-07-30", "", True), ("2018-07-30", "2018-07-30", False),
    ("2018-07-31", "2018-07-30", True)])
def test_who_is_to_be_told(state, told, is_news):
    assert iot.is_news(state, told) is is_news


@pytest.mark.parametrize(("since", "awake", "is_timely"), [
    (NOON, 0, True), (NOON - HOUR + 1, 0, True), (NOON - HOUR, 0, False), (NOON, None, False),
    (NOON - 9 * HOUR, NOON - MINUTE, True),     # true since the night, which is over
    (NOON - 9 * HOUR, NOON - HOUR, False),
    (NOON + DAY, 0, True)])                     # the clock was set back
def test_what_is_still_worth_telling(since, awake, is_timely):
    assert iot.is_timely(since, NOON, awake) is is_timely


@given(some.lists(some.tuples(some.sampled_from(["open", "close", ""]), some.booleans())))
def test_whatever_is_lost_open_and_close_take_turns(steps):
    """States of a room, and whether a destination could be reached then."""
    told, heard = "", []
    for state, is_reached in steps:
        if iot.is_news(state, told) and is_reached:
            told = state
            heard.append(state)
    assert heard[:1] in ([], ["open"])
    assert all(a != b for a, b in itertools.pairwise(heard))


# -- URLs -----------------------------------------------------------------------------------------

GOOD = {
    "ntfy://localhost/topic": "ntfy://localhost",
    "ntfys://ntfy.sh/my-topic_1?alive=45m": "ntfys://ntfy.sh",
    "ntfys://tk_AgQdq7mVBoFD37zQVN29RhuMzNIz2@ntfy.example.org:8443/t": "ntfys://ntfy.example.org",
    "ntfy://me:p%3Ass%20wort@[::1]:80/topic": "ntfy://::1",
    "json://localhost:8080/a/b?c=d": "json://localhost",
    "jsons://hooks.slack.com/services/T000/B000/XXXX": "jsons://hooks.slack.com",
    "jsons://me:secret@example.org": "jsons://example.org",
    "mailto://localhost:25/?from=a@example.org&to=b@example.org": "mailto://localhost",
    "mailtos://me%40example.org:p%3Ass@mail.example.org/?from=me@example.org&to=you@example.org":
        "mailtos://mail.example.org",
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")      # in what Apprise imports
@pytest.mark.parametrize("url", GOOD)
def test_urls_are_those_of_apprise(url):
    to = iot.parse_destination(url)
    assert to.name == GOOD[url]
    theirs = apprise.Apprise.instantiate(url.replace("?alive=45m", ""))
    assert theirs, "Apprise takes it, too"
    assert theirs.secure is to.is_secure
    assert theirs.host == to.url.hostname or "[" in url
    assert (theirs.user or "", theirs.password or "") == to.login or "tk_" in url
    if to.kind == "json":
        assert (theirs.fullpath or "/") == (to.url.path or "/")
    if "tk_" in url:
        assert theirs.token == to.login[0]
    if to.kind == "mailto":
        assert [address for _, address in theirs.targets] == [to.options["to"]]


@pytest.mark.parametrize("url", [
    "ntfy://localhost", "ntfy://localhost/", "ntfy://localhost/a/b", "ntfy://localhost/t?alive=x",
    "ntfy://localhost/t?priority=5", "ntfy:///topic", "http://localhost/", "topic", "", "s://x",
    "json://", "json://:80/x", "json://localhost:99999/x", "json://localhost:0/x",
    "json://localhost/ü", "mailto://localhost/", "mailto://localhost/?from=a@b",
    "mailto://localhost/?to=a@b&to=a@b", "mailto://localhost/x?from=a@b&to=c@d",
    "mailtos://me:pa/ss:wort@localhost/?from=a@b&to=c@d", "json://[::1/x"])
def test_what_is_no_destination_is_refused_without_its_secrets(url):
    with pytest.raises(iot.Usage) as refused:
        iot.parse_destination(url)
    said = str(refused.value)
    assert "wort" not in said
    assert refused.value.__suppress_context__ or refused.value.__context__ is None


@pytest.mark.parametrize(("url", "meant"), {
    "https://ntfy.sh/x": "ntfys://ntfy.sh/x", "http://localhost:2586/our-windows/":
    "ntfy://localhost:2586/our-windows", "https://hooks.example.org/services/T0/B0/secret":
    "jsons:// in place of https://"}.items())
def test_a_web_address_is_answered_with_what_is_meant(url, meant):
    with pytest.raises(iot.Usage) as refused:
        iot.parse_notify(url)
    assert meant in str(refused.value)
    assert "secret" not in str(refused.value)
    if "://l" in meant or "sh" in meant:
        assert iot.parse_notify(meant)[0].kind == "ntfy"


@given(some.text(max_size=60))
def test_any_text_is_destinations_or_refused(text):
    try:
        found = iot.parse_notify(text)
    except iot.Usage:
        return
    assert all(isinstance(to, Destination) for to in found)


def test_what_one_reading_alone_says_is_no_close():
    verdict = iot.Verdict("comfortable", -1.4, NOON, None, None, 21.5, 22.9, believed=1.0)
    assert iot.choose_kind(verdict) == ""


@pytest.mark.parametrize(("url", "is_right"), [
    ("ntfy://host/topic?alive=72h", True), ("ntfy://host/topic?alive=73h", False),
    ("ntfy://host/topic?alive=999h", False), ("ntfy://host/topic?alive=999m", True)])
def test_a_message_is_put_off_for_three_days_at_most(url, is_right):
    """ntfy refuses more."""
    if is_right:
        assert iot.parse_destination(url)
    else:
        with pytest.raises(Usage, match="72h"):
            iot.parse_destination(url)


def test_destinations_that_differ_by_their_user_alone_are_two():
    ids = {iot.parse_destination(f"jsons://{login}hooks.example.org/x").id
           for login in ("", "one@", "two@", "two:old@", "two:new@")}
    assert len(ids) == 3
    old, new = (iot.parse_destination(f"ntfys://tk_{token}@ntfy.sh/t").id for token in "ab")
    assert old == new, "a token that is renewed"


def test_an_id_holds_no_secret_and_stays_when_the_password_changes():
    one, two, three = (iot.parse_destination(f"ntfys://{login}ntfy.sh/topic{end}") for login, end
                       in (("me:old@", ""), ("me:new@", ""), ("", "2")))
    assert one.id == two.id != three.id


@pytest.mark.parametrize(("text", "seconds"), [
    ("120", 120), ("0", 0), ("", 0), ("-5", 0), ("soon", 0), ("99999999", 3600),
    ("Wed, 21 Oct 2015 07:28:00 GMT", 0), ("Wed, 99 Oct 2015", 0),
    ("Sun, 01 Jan 2090 00:00:00 GMT", 3600), ("Sun, 01 Jan 2090 00:00:00", 3600)])
def test_how_long_a_destination_wants_to_be_left_alone(text, seconds):
    assert iot.parse_pause(text) == seconds


def test_what_others_say_is_shown_without_secrets():
    to = iot.parse_destination("jsons://user1:p%3Ass%20wort@example.org/services/T0/B0?token=abcd")
    said = "no /services/T0/B0?token=abcd for user1:p%3Ass%20wort, I mean p:ss wort\n\x1b[0m"
    assert not any(secret in iot.hide(to, said) for secret in (
        "services", "abcd", "user1", "wort", "\n"))


def test_a_secret_in_the_path_of_a_webhook_is_not_shown_alone():
    to = iot.parse_destination("jsons://example.org/api/webhook/wohnzimmer-3f9c2a")
    assert iot.hide(to, "unknown: wohnzimmer-3f9c2a (api)") == "unknown: *** (api)"


@pytest.mark.parametrize("length", [4, 9, 20, 28])
def test_neither_a_login_that_is_repeated_nor_its_beginning_is_shown(length):
    to = iot.parse_destination("jsons://me:correct-horse-battery@example.org/x")
    proof = iot.authorize(to).split()[1]
    for secret in (proof, "correct-horse-battery"):
        said = iot.hide(to, f"you sent Authorization: Basic {secret}, I think, {secret[:length]}")
        assert secret[:4] not in said
    long = iot.hide(to, "x" * (iot.MAX_WORDS - 10) + "correct-horse-battery")
    assert "corr" not in long, "it is cut only when nothing is left to hide"


def test_a_plan_in_words():
    station = iot.Station(1, "inside", "m", "inside", None, None, None, NOON, NOON, 1, 1)
    forecast = {"event": "cooler", "at": at("2018-07-30 20:40"), "from": at("2018-07-30 20:10"),
                "to": at("2018-07-30 21:20"), "chance": 0.9}

    def place(said):
        return iot.Place(
            1, "inside", "inside", 0, forecast=iot.Forecast(
                said["event"], said["at"], said["from"], said["to"], said["chance"], 40, (), ()),
            verdict=iot.Verdict("close", -2.0, NOON, iot.LATEST_TIME, None, 26.0, 28.0))
    _, text = iot.say_message(station, "plan", "2018-07-30", place(forecast), NOON, iot.ENGLISH)
    assert text == "Cooler outside from about 20:40 (20:10 to 21:20)."
    odd = {**forecast, "at": forecast["at"] + 2 * MINUTE, "to": forecast["to"] - 3 * MINUTE}
    for now, times in ((NOON, "20:40 (20:10 to 21:15)"),
                       (odd["at"] + HOUR, "21:40 (20:10 to 21:40)")):
        _, text = iot.say_message(station, "plan", "2018-07-30", place(odd), now, iot.ENGLISH)
        assert text == f"Cooler outside from about {times}."
    room = {"inside": 23, "outside": 30, "forecast": forecast}
    assert iot.is_worth_a_plan(room, 22)
    assert iot.is_worth_a_plan({**room, "inside": 20}, 22)
    for change in ({"outside": 21, "inside": 22}, {"forecast": None},
                   {"forecast": {**forecast, "event": "warmer"}},
                   {"forecast": {**forecast, "at": None}}):
        assert not iot.is_worth_a_plan({**room, **change}, 22)


def test_a_destination_that_is_named_twice_is_told_once():
    assert [to.host for to in iot.parse_notify("json://a/x json://b/ json://a/x")] == ["a", "b"]
