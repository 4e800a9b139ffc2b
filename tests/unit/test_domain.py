"""The pure functions: what stations and users may write, and the arithmetic of charts."""
import json
import math
import re
import urllib.parse
from collections import defaultdict
from datetime import UTC, datetime, timedelta, timezone

import pytest
from harness import NOON
from hypothesis import assume, given
from hypothesis import strategies as st

import iotserver
from iotserver import Point, Reading, Refused

HOUR = 3_600_000
MAX_AGE = 30 * 86_400

macs = st.text("0123456789abcdefg:._-", min_size=1, max_size=32)
keys = st.text("0123456789ABCDEFabcdef._~-", min_size=1, max_size=64)
seqs = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1,
               max_size=32)
values = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-10**15 + 1, 10**15 - 1)
readings = st.builds(
    Reading, field=st.integers(1, 9), value=values, seq=st.none() | seqs,
    age=st.just(0) | st.integers(0, MAX_AGE * 1000))


def texts(reading):
    """A reading's parts as a station writes them."""
    parts = {"field": str(reading.field), "data": repr(reading.value)}
    if reading.age:
        parts["age"] = str(reading.age / 1000)
    if reading.seq is not None:
        parts["seq"] = reading.seq
    return parts


def path_of(parts, chance, mix):
    """The path of parts; each character is percent-encoded with this chance, or if it must be."""
    def encode(value):
        return "".join(urllib.parse.quote(c, safe="") if mix.random() >= chance else
                       "".join(f"%{b:02X}" for b in c.encode()) for c in value)
    return "/update/" + "/".join(f"{name}={encode(value)}" for name, value in parts)


# -- updates --------------------------------------------------------------------------------------


@given(macs, keys, readings, st.sampled_from([0.0, 0.3, 1.0]), st.randoms(use_true_random=False))
def test_update_path_round_trip(mac, key, reading, chance, mix):
    parts = list({"API_key": key, "mac": mac, **texts(reading)}.items())
    mix.shuffle(parts)
    assert parse_path(path_of(parts, chance, mix)) == (mac, key, reading)


@pytest.mark.parametrize("unit", [b"[]", b"{}", b"[[]]", b"[" * 900 + b"]" * 900])
def test_json_of_very_many_lists_is_refused_before_it_is_decoded(unit, monkeypatch):
    def body(size):
        return b"[" + b",".join([unit] * (size // len(unit))) + b"]"
    assert iotserver.load_json(body(30_000))
    monkeypatch.setattr(iotserver.json, "loads", lambda *args, **more: pytest.fail("decoded"))
    with pytest.raises(Refused, match="lists and objects"):
        iotserver.load_json(body(iotserver.MAX_BODY // 2))


def parse_body(body):
    """What a POST asks for: MAC, key and readings."""
    mac, key, items = iotserver.parse_update_json(iotserver.load_json(body))
    return mac, key, [iotserver.parse_json_reading(f"readings[{i}]", item)
                      for i, item in enumerate(items)]


@given(macs, keys, st.lists(readings, min_size=1, max_size=5), st.booleans())
def test_update_json_round_trip(mac, key, several, as_text):
    document = {"mac": mac.upper(), "api_key": key, "readings": [
        texts(r) if as_text else {**texts(r), "field": r.field, "data": r.value,
                                  "age": r.age / 1000} for r in several]}
    assert parse_body(json.dumps(document).encode()) == (mac, key, several)


GOOD = {"API_key": "SECRETKEY", "mac": "m1", "field": "1", "data": "22.5", "age": "5", "seq": "7"}
BAD = {
    "mac": ["", "a" * 33, "a b", "a%2Fb", "ä", "a%0A", "a*"],
    "field": ["", "0", "10", "1.0", "+1", "-1", "a", "01", "%D9%A1", "%C2%B2", "1%0A"],
    "data": ["", "nan", "inf", "-inf", "Infinity", "1_0", "0x10", "1e", "1e999", "9" * 33, "1,5",
             " 1", "1%20", "1%0A", "%D9%A1", "--1", "."],
    "age": ["", "-1", "2592001", "nan", "1e9", "a", "1_0"],
    "seq": ["", "a" * 33, "%00", "a%0Ab", "%1B"],
}
ROWS = [(part, text) for part, several in BAD.items() for text in several]


def parse_path(path, header_key=None):
    return iotserver.parse_update(iotserver.split_update_path(path), header_key)


def refusal(parse, *args):
    with pytest.raises(Refused) as caught:
        parse(*args)
    assert caught.value.status == 400
    assert "SECRETKEY" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("part", "text"), ROWS)
def test_bad_part_of_path_is_named(part, text):
    path = "/update/" + "/".join(f"{n}={v}" for n, v in {**GOOD, part: text}.items())
    assert refusal(parse_path, path).startswith(f"{part}:")


@pytest.mark.parametrize(("part", "text"), ROWS)
def test_bad_part_of_json_is_named(part, text):
    text = urllib.parse.unquote(text)
    good = {name: GOOD[name] for name in ("field", "data", "age", "seq")}
    document = {"mac": "m1", "api_key": "SECRETKEY", "readings": [good, dict(good)]}
    (document if part == "mac" else document["readings"][1])[part] = text
    message = refusal(parse_body, json.dumps(document).encode())
    assert message.startswith("mac:" if part == "mac" else f"readings[1].{part}:")


@pytest.mark.parametrize(("path", "word"), [
    ("/update/", "path"), ("/update/SECRETKEY", "path"), ("/update//", "path"),
    ("/update/mac=m/field=1/data=1", "API_key"), ("/update/API_key=SECRETKEY/data=1", "mac"),
    ("/update/API_key=SECRETKEY/mac=m/data=1", "field"),
    ("/update/API_key=SECRETKEY/mac=m/field=1", "data"),
    ("/update/API_key=SECRETKEY/mac=m/field=1/data=1/data=2", "data"),
    ("/update/API_key=SECRETKEY/api_KEY=b/mac=m/field=1/data=1", "API_key"),
    ("/update/API_key=SECRETKEY/mac=m/field=1/data=1/colour=2", "'colour'"),
    ("/update/API_key=SECRETKEY/mac=m/field=1/data=1/", "path"),
])
def test_missing_doubled_and_unknown_parts_are_named(path, word):
    assert refusal(parse_path, path).startswith(f"{word}:")


@pytest.mark.parametrize(("change", "word"), [
    ({"mac": None}, "mac"), ({"mac": 5}, "mac"), ({"api_key": None}, "api_key"),
    ({"api_key": ["SECRETKEY"]}, "api_key"), ({"readings": None}, "readings"),
    ({"readings": []}, "readings"), ({"readings": {}}, "readings"),
    ({"readings": [{"field": 1, "data": 1}] * 961}, "readings"),
    ({"readings": [[1, 2]]}, "readings[0]"), ({"colour": 1}, "'colour'"),
    ({"readings": [{"data": 1}]}, "readings[0].field"),
    ({"readings": [{"field": 1}]}, "readings[0].data"),
    ({"readings": [{"field": 1, "data": None}]}, "readings[0].data"),
    ({"readings": [{"field": True, "data": 1}]}, "readings[0].field"),
    ({"readings": [{"field": 1, "data": True}]}, "readings[0].data"),
    ({"readings": [{"field": 1, "data": [1]}]}, "readings[0].data"),
    ({"readings": [{"field": 1, "data": 1, "age": {}}]}, "readings[0].age"),
    ({"readings": [{"field": 1, "data": 1, "seq": [1]}]}, "readings[0].seq"),
    ({"readings": [{"field": 1, "data": 1, "seq": True}]}, "readings[0].seq"),
    ({"readings": [{"field": 1, "data": 1, "hue": 1}]}, "readings[0].'hue'"),
])
def test_bad_json_document_names_the_part(change, word):
    document = {"mac": "m", "api_key": "SECRETKEY", "readings": [{"field": 1, "data": 1}]}
    body = json.dumps({**document, **change}).encode()
    assert word.rpartition(".")[2] in refusal(parse_body, body)


ONE = b'{"mac":"m","api_key":"k","readings":[{"field":1,"data":%b}]}'


@pytest.mark.parametrize("body", [
    b"", b"{", b"[]", b"1", b'"SECRETKEY"', b"\xff\xfe\xfd", ONE % b"NaN", ONE % b"Infinity",
    b"[" * 100_000, b"9" * 5000, ONE % b"1e999"])
def test_body_that_is_no_update_is_refused(body):
    assert re.match(r"body:|readings\[0\].data:", refusal(parse_body, body))


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_any_body_is_an_update_or_refused(body):
    with pytest.raises(Refused):
        parse_body(body)


@given(st.lists(st.sampled_from(["/", "=", "%", "%41", "API_key=", "mac=", "field=1", "data=", "5",
                                 "é", " ", "x", "seq="]), max_size=12).map("".join))
def test_any_path_is_an_update_or_names_a_part(text):
    try:
        update, message = parse_path("/update/" + text), ""
    except Refused as refused:
        update, message = None, refused.message
    assert (update and math.isfinite(update[2].value)) or re.match(
        r"(API_key|mac|field|data|age|seq|path|'.*'|\".*\"): ", message)


def test_header_key_serves_when_the_update_has_none():
    bare = "/update/mac=m/field=1/data=1"
    assert parse_path(bare, "K")[1] == "K"
    body = b'{"mac":"m","readings":[{"field":1,"data":1}]}'
    assert iotserver.parse_update_json(iotserver.load_json(body), "K")[1] == "K"
    assert refusal(parse_path, bare, None).startswith("API_key:")


# -- numbers, times, lengths, temperatures --------------------------------------------------------


@given(values)
def test_number_round_trip(value):
    assert iotserver.parse_number(repr(value)) == value


@given(st.from_regex(r"[+-]?([0-9]{1,10}\.?[0-9]{0,8}|\.[0-9]{1,8})([eE][+-]?[0-9]{1,2})?",
                     fullmatch=True))
def test_number_means_what_python_means(text):
    assert iotserver.parse_number(text) == float(text)


@given(st.text("0123456789+-._eExnaif ٣\n", max_size=34) | st.text(max_size=8))
def test_text_is_a_finite_number_or_refused(text):
    try:
        number = iotserver.parse_number(text)
    except ValueError:
        return
    assert math.isfinite(number)
    assert number == float(text)
    assert re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text, re.ASCII)
    assert len(text) <= 32


@given(st.integers(0, 4_102_444_799_999))
def test_time_round_trip(ms):
    text = iotserver.format_time(ms)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", text)
    instant = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)
    assert text[:-1] == instant.isoformat(timespec="milliseconds")[:-6]
    assert iotserver.parse_time(text) == ms
    assert iotserver.parse_time(text, timezone(timedelta(hours=-4))) == ms, "it says Z"


@given(st.datetimes(datetime(1971, 1, 1), datetime(2099, 1, 1)), st.integers(-14 * 60, 14 * 60))
def test_time_with_an_offset(local, minutes):
    local = local.replace(microsecond=local.microsecond // 1000 * 1000)
    instant = local.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    expected = round(instant.timestamp() * 1000)
    text = instant.isoformat()
    assert iotserver.parse_time(text) == expected
    assert iotserver.parse_time(text.replace("T", " ")) == expected


@pytest.mark.parametrize("text", [
    "2018-07-30T12:00:00.000Z", "2018-07-30T12:00:00Z", "2018-07-30 12:00:00", "2018-07-30T12:00",
    "2018-07-30 12:00:00 UTC", "2018-07-30T14:00:00+02:00", "2018-07-30T08:00:00-0400",
    "2018-07-30 08:00:00 -0400", "2018-07-30T12:00:00.000000", " 2018-07-30T12:00:00 ",
    "2018-07-30T14:00:00 02:00", "2018-07-30T14:00:00+02", "2018-07-30 14:00:00.000 +02"])
def test_notations_of_noon(text):
    assert iotserver.parse_time(text) == NOON


@pytest.mark.parametrize("text", ["", "noon", "2018-13-01T00:00:00.000Z", "2018-02-29T00:00:00Z",
                                  "2018-07-30T24:01:00.000Z", "2018-07-30T12:60:00.000Z", "12:00",
                                  "2018-07-30T12:00:00.000ZZ", "٢018-07-30T12:00:00.000Z",
                                  "2018-07-30 +02:00", "2018-07-30 -0400"])
def test_text_that_is_no_time(text):
    with pytest.raises(ValueError):  # noqa: PT011
        iotserver.parse_time(text)


@pytest.mark.parametrize(("text", "ms"), [("90d", 90 * 24 * HOUR), ("12h", 12 * HOUR), ("0s", 0),
                                          ("30m", HOUR // 2), ("45s", 45_000), ("2w", 336 * HOUR)])
def test_duration(text, ms):
    assert iotserver.parse_duration(text) == ms


@pytest.mark.parametrize("text", ["", "d", "90", "-1d", "1.5d", "1 d", "9D", "1y", "٩d", "1d\n"])
def test_text_that_is_no_duration(text):
    with pytest.raises(iotserver.Usage):
        iotserver.parse_duration(text)


@pytest.mark.parametrize(("text", "celsius"), [
    ("22C", 22), ("22", 22), ("21.5", 21.5), ("72F", 22.222), ("32F", 0), ("-40F", -40),
    ("21.5C", 21.5)])
def test_temperature(text, celsius):
    assert iotserver.parse_temperature(text) == pytest.approx(celsius, abs=1e-3)


@pytest.mark.parametrize("text", ["", "72", "C", "22K", "nanC", "2_2C", "22 C x", "1e1C", "٢C"])
def test_text_that_is_no_temperature(text):
    with pytest.raises(iotserver.Usage):
        iotserver.parse_temperature(text)


# -- token bucket ---------------------------------------------------------------------------------


@given(st.integers(1, 120), st.lists(st.floats(0, 30) | st.just(0.0), max_size=300))
def test_bucket_never_grants_more_than_its_burst_and_its_rate(per_minute, pauses):
    bucket, now, granted = None, 0.0, []
    for pause in pauses:
        now += pause
        bucket, wait = iotserver.take_tokens(bucket, now, per_minute, per_minute)
        assert 0 <= bucket[0] <= per_minute
        assert 0 <= wait <= 60 / per_minute + 1e-6
        if not wait:
            granted.append(now)
    for i, start in enumerate(granted):
        in_minute = sum(start <= t < start + 60 for t in granted[i:])
        assert in_minute <= 2 * per_minute + 1


@given(st.integers(1, 10_000), st.floats(0, 0.999))
def test_bucket_grants_after_the_wait_that_it_names(per_minute, tokens):
    left, wait = iotserver.take_tokens((tokens, 0.0), 0, per_minute, per_minute)
    assume(wait > 0)
    assert iotserver.take_tokens(left, wait + 1e-6, per_minute, per_minute)[1] == 0
    assert iotserver.take_tokens(left, wait * 0.9, per_minute, per_minute)[1] > 0


@given(st.integers(1, 100))
def test_bucket_gives_its_burst_then_its_steady_rate(per_minute):
    bucket, now = None, 0.0
    for pause in [0] * per_minute + [60 / per_minute + 1e-9] * 100:
        now += pause
        bucket, wait = iotserver.take_tokens(bucket, now, per_minute, per_minute)
        assert wait == 0
    assert iotserver.take_tokens(bucket, now, per_minute, per_minute)[1] > 0


@given(st.integers(1, 100), st.integers(1, 50), st.integers(1, 500))
def test_what_costs_much_waits_for_so_many_tokens_and_never_for_ever(rate, burst, cost):
    left, wait = iotserver.take_tokens(None, 0.0, rate, burst, cost)
    assert wait == 0, "a full bucket is enough for anything"
    left, wait = iotserver.take_tokens(left, 0.0, rate, burst, cost)
    assert wait == pytest.approx(max(0, 2 * min(cost, burst) - burst) * 60 / rate)
    if wait:
        assert iotserver.take_tokens(left, wait + 1e-6, rate, burst, cost)[1] == 0


# -- charts ---------------------------------------------------------------------------------------

sane = st.floats(-1e6, 1e6, allow_nan=False)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5 * HOUR), st.integers(1, 99),
                          sane | st.just("text"))))
def test_summaries_are_those_of_the_readings(rows):
    groups = defaultdict(list)
    for series, ms, _, value in rows:
        if value != "text":
            groups[series, ms // HOUR].append(value)
    found, odd = iotserver.summarize(rows, set())
    assert (found.keys(), odd) == (groups.keys(), {})
    for place, group in groups.items():
        count, low, high, total = found[place]
        assert (count, low, high) == (len(group), min(group), max(group))
        assert total == pytest.approx(math.fsum(group), abs=1e-6)


@given(st.lists(st.tuples(st.integers(0, 10_000), st.lists(sane, min_size=1, max_size=4))),
       st.integers(0, 500), st.integers(1, 3000))
def test_thinned_points_are_those_of_their_buckets(moments, before, width):
    samples = sorted(iotserver.Summary(ms, 0, len(v), 0, len(v), min(v), max(v), math.fsum(v))
                     for ms, v in moments)
    origin = (samples[0].time if samples else 0) - before
    groups = defaultdict(list)
    for ms, several in moments:
        groups[(ms - origin) // width] += several
    expected = [Point(origin + bucket * width, pytest.approx(math.fsum(g) / len(g), abs=1e-6),
                      min(g), max(g), width) for bucket, g in sorted(groups.items())]
    edges = range(origin, origin + 500 + 10_000 + 2 * width, width)
    assert iotserver.finish(iotserver.thin(samples, edges)) == expected
