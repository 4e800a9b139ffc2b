"""What bought weather stations send, and what becomes of it: captured requests, names, units."""
import contextlib
import itertools
import re
import sqlite3

import hypothesis.strategies as some
import pytest
from harness import (
    INSIDE,
    NOON,
    OUTSIDE,
    add_console,
    parse_responses,
    problems_of,
    rows_of,
)
from hypothesis import given

import iotserver
from iotserver import AIR_SENSORS, HOUR, MINUTE, SENSORS, UPLOADS, hash_key, parse_dateutc

ID, KEY = "GARDEN", "GTW89NF4"
PATH = f"/weatherstation/updateweatherstation.php?ID={ID}&PASSWORD={KEY}"
# As they came over the wire, but for ID, key and date.
OBSERVER_IP = (
    f"GET {PATH}&tempf=89.42&humidity=54&dewptf=70.70&windchillf=89.42&winddir=269"
    "&windspeedmph=0.00&windgustmph=9.17&rainin=0.000&dailyrainin=0.000&weeklyrainin=0.476"
    "&monthlyrainin=4.831&yearlyrainin=4.831&solarradiation=732.04&UV=6&indoortempf=79.34"
    "&indoorhumidity=55&baromin=30.135&lowbatt=0&dateutc=now&softwaretype=OBSERVERIP2_V2.2.3"
    "&action=updateraw&realtime=1&rtfreq=5 HTTP/1.0\r\n"
    "Accept: */*\r\nHost: 10.1.10.11\r\nConnection: Close\r\n\r\n").encode()
ECOWITT_FORM = (
    b"PASSKEY=50E4A2B2A92ED2BB4CEFD4478A6312F9&stationtype=GW2000B_V2.1.8&runtime=1755701"
    b"&dateutc=2018-07-30+11:59:50&tempinf=68.90&humidityin=42&baromrelin=29.244&baromabsin=29.323"
    b"&tempf=39.74&humidity=99&winddir=60&windspeedmph=1.34&windgustmph=2.24&maxdailygust=12.53"
    b"&solarradiation=0.00&uv=0&rainratein=0.000&eventrainin=1.689&hourlyrainin=0.000"
    b"&dailyrainin=0.567&weeklyrainin=1.709&monthlyrainin=1.697&yearlyrainin=1.697"
    b"&totalrainin=1.697&wh65batt=0&freq=915M&model=GW2000B")
ROOMS_FORM = (
    b"PASSKEY=1&stationtype=GW1000A_V1.5.9&dateutc=2018-07-30 11:59:02&tempinf=77.5&humidityin=44"
    b"&baromrelin=29.288&baromabsin=29.288&temp1f=76.64&humidity1=46&temp2f=76.10&humidity2=47"
    b"&batt1=0&batt2=0&freq=868M&model=GW1000_Pro")
ECOWITT = (
    f"POST /data/report/{KEY} HTTP/1.1\r\nHOST: 192.168.1.20\r\nConnection: Close\r\n"
    f"Content-Type: application/x-www-form-urlencoded\r\n"
    f"Content-Length:{len(ECOWITT_FORM)}\r\n\r\n").encode() + ECOWITT_FORM
AMBIENT = (
    f"GET /data/report/{KEY}?&PASSKEY=3B87&stationtype=AMBWeatherPro_V5.2.5"
    "&dateutc=2018-07-30+11:59:04&tempf=59.7&humidity=80&windspeedmph=1.1&windgustmph=2.2"
    "&winddir=7&uv=0&solarradiation=2.1&hourlyrainin=0.00&tempinf=71.1&humidityin=39"
    "&baromrelin=29.876&baromabsin=29.1 HTTP/1.1\r\nHost: 192.168.1.20:8000\r\n"
    "Connection: Close\r\n\r\n").encode()
CAPTURED = {
    "observer": (OBSERVER_IP, {"": {1: 31.9, 2: 54, 3: 1020.5, 4: 0, 5: 4.1, 6: 269, 7: 0,
                                    8: 732.04, 9: 6}, "in": {1: 26.3, 2: 55}}),
    "ecowitt": (ECOWITT, {"": {1: 4.3, 2: 99, 3: 990.3, 4: 0.6, 5: 1, 6: 60, 7: 0, 8: 0, 9: 0},
                          "in": {1: 20.5, 2: 42, 3: 993}}),
    "ambient": (AMBIENT, {"": {1: 15.39, 2: 80, 3: 1011.7, 4: 0.49, 5: 0.98, 6: 7, 8: 2.1, 9: 0},
                          "in": {1: 21.72, 2: 39, 3: 985.4}}),
}


@pytest.fixture
def console(server):
    """A server with a console, `garden`, besides the two stations."""
    add_console(server.writer, "garden outside", ID.lower(), hash_key(KEY).hex(), NOON)
    return server


def report(server, path=None, method="GET", body=b"", **values):
    """The response to a report, by default in Weather Underground's protocol."""
    query = "&".join(f"{name}={value}" for name, value in values.items())
    path = PATH if path is None else path
    return server.ask(method, path + ("&" if "?" in path else "?") * bool(query) + query, body)


def stored(server):
    """What the console's stations hold: {place: {field: value}}; each has one reading of each."""
    found = {}
    for _, _, mac, field, value, _ in rows_of(server.path):
        if mac.startswith(ID.lower()):
            values = found.setdefault(mac.removeprefix(ID.lower()).lstrip("-"), {})
            assert field not in values
            values[field] = value
    return found


def exchange(server, pieces):
    connection = server.connect()
    for piece in pieces:
        connection.data_received(piece)
        server.server.loop.run()
    sent = connection.transport.sent
    connection.connection_lost(None)
    return parse_responses(sent)


# -- captured requests ----------------------------------------------------------------------------


@pytest.mark.parametrize("cut", ["one segment", "byte by byte", "head and body"])
@pytest.mark.parametrize("name", CAPTURED)
def test_a_captured_request_is_stored_as_what_it_says(console, name, cut):
    raw, expected = CAPTURED[name]
    pieces = {"one segment": [raw], "byte by byte": [bytes([byte]) for byte in raw],
              "head and body": [part for part in re.split(rb"(?<=\r\n\r\n)", raw) if part]}[cut]
    response, = exchange(console, pieces)
    assert (response.status, response.text.strip()) == (200, "success")
    assert response.headers["connection"] == "close"
    assert stored(console) == expected
    assert problems_of(console.path) == []


def test_the_answer_comes_after_the_commit(console):
    connection = console.connect()
    connection.data_received(ECOWITT)
    assert connection.transport.sent == b""
    assert stored(console) == {}
    console.server.loop.run()
    assert b" 200 OK" in connection.transport.sent
    assert stored(console) != {}
    connection.connection_lost(None)


def test_the_verdict_follows_from_one_request(console):
    console.server.writer.remove_step("inside")
    console.server.writer.remove_step("outside")
    exchange(console, [OBSERVER_IP])
    verdict, = console.get("/api/verdict").json["verdicts"]
    assert (verdict["station"], verdict["state"]) == ("garden inside", "close")
    assert (verdict["inside"], verdict["outside"]) == (26.3, 31.9)
    assert "Keep the windows closed" in console.get("/", Accept="text/html").text


@pytest.mark.parametrize("path", [
    PATH.replace("?", ""), PATH.replace(".php?", ".php?&"), PATH.replace("?ID", "?action=a&id"),
    f"/data/report/{KEY}", f"/data/report/{KEY}/", f"/data/report/{KEY}?", f"/data/report/{KEY}/?",
    f"/data/report/{KEY}?&", f"/data/report/{KEY}??", f"/data/report/{KEY}&"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_paths_as_people_type_them(console, path, method):
    if method == "POST":
        response = console.ask("POST", path, b"tempf=68")
    else:
        joint = "" if path[-1] in "?&" else "&" if "id=" in path.lower() else "?"
        response = console.get(f"{path}{joint}tempf=68")
    assert (response.status, response.text) == (200, "success")
    assert stored(console) == {"": {1: 20}}


def test_the_key_may_come_in_the_header(console):
    assert console.get("/data/report?temp=20", X_API_Key=KEY).status == 200
    assert console.get(f"/weatherstation/updateweatherstation.php?ID={ID}&tempf=68",
                       X_API_Key=KEY).status == 200
    assert console.get("/data/report?temp=20", X_API_Key="wrong").status == 403


# -- names, units, what is no value ---------------------------------------------------------------


def test_each_name_has_its_place_and_unit(console):
    """All of them at once, in capitals: 37 readings of 15 stations."""
    form = {name.upper(): 50 for name, (_, _, unit) in UPLOADS.items() if unit}
    del form["TEMP"], form["HUM"], form["PRESS"]        # which have the fields of others
    assert report(console, **form).status == 200
    found = stored(console)
    assert {(place, field) for place, values in found.items() for field in values} == {
        sensor[:2] for sensor in (*SENSORS, *AIR_SENSORS)}
    assert found[""] == {1: 10, 2: 50, 3: 1693.2, 4: 22.35, 5: 22.35, 6: 50, 7: 1270, 8: 50, 9: 50}
    assert found["in"] == {1: 10, 2: 50, 3: 1693.2}
    assert found["ch8"] == {1: 10, 2: 50}
    assert found["pm4"] == {4: 50}
    assert found["co2"] == {1: 10, 2: 50, 4: 50, 5: 50, 6: 50}


def test_own_names_are_in_our_units(console):
    report(console, f"/data/report/{KEY}", temp=22.5, hum=45, press=999)
    assert stored(console) == {"": {1: 22.5, 2: 45, 3: 999}}


def test_numbered_fields_are_any_numbers(console):
    report(console, f"/data/report/{KEY}", **{f"field{n}": -999 for n in range(1, 10)})
    assert stored(console) == {"": dict.fromkeys(range(1, 10), -999)}


@pytest.mark.parametrize("value", ["-9999", "-999", "-999.0", "-999.9", "null", "", "--", "--.-",
                                   "-", "+--+"])
def test_what_says_that_there_is_no_sensor_is_left_out(console, value):
    assert report(console, tempf=68, humidity=value, windspeedmph=value, baromin=value).text == \
        "success"
    assert stored(console) == {"": {1: 20}}


def test_a_shelly_without_its_probe_has_nothing_to_say(console):
    assert report(console, f"/data/report/{KEY}", temp=999, hum=1000, press=1000).status == 200
    assert stored(console) == {"": {3: 1000}}


@pytest.mark.parametrize("value", [
    "warm", "nan", "inf", "1_0", "0x10", "2,5", "1e400", "1" * 33, "%0068", "--.--", "---", "NNE",
    "N/A", "None", "54%25", "unavailable"])
def test_an_unreadable_value_costs_only_itself(console, value):
    """A console sends nothing twice, so the rest of its report is stored."""
    assert report(console, indoortempf=68, humidity=50, baromin=value, temp1f=68).text == "success"
    assert stored(console) == {"": {2: 50}, "in": {1: 20}, "ch1": {1: 20}}
    response = report(console, baromin=value, temp2f=value)
    assert (response.status, response.text.split(":")[0]) == (400, "baromin")
    assert response.headers["content-type"].startswith("text/plain")
    assert stored(console) == {"": {2: 50}, "in": {1: 20}, "ch1": {1: 20}}
    assert [s.name for s in console.reader.stations()][-1] == "garden ch1"


def test_a_number_too_large_for_our_unit_is_refused(console):
    assert report(console, baromin="1.7e308").status == 400
    assert stored(console) == {}


@pytest.mark.parametrize("form", [{}, {"tempf": ""}, {"batt1": 0}, {"tempf": -9999}])
def test_a_report_without_a_reading_is_refused(console, form):
    response = report(console, **form)
    assert (response.status, response.text.split(";")[0]) == (400, "no reading in it")


@given(some.dictionaries(
    some.sampled_from([*sorted(UPLOADS), "dateutc", "ID"]),
    some.one_of(some.floats().map(str), some.integers().map(str), some.text(max_size=40))))
def test_a_report_is_numbers_or_a_refusal(form):
    found = {}
    with contextlib.suppress(iotserver.Refused):
        found = iotserver.parse_report({name.lower(): value for name, value in form.items()})
    for place, values in found.items():
        assert place in {sensor[0] for sensor in (*SENSORS, *AIR_SENSORS)}
        assert all(1 <= field <= 9 and abs(value) < 1e309 for field, value in values.items())


# -- when -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "ago"), [
    ("now", 0), ("", 0), ("soon", 0), ("2018-07-30 11:59:50", 10_000),
    ("2018-7-30 9:04:05", 3 * HOUR - 4 * MINUTE - 5000), ("2018-07-30 12:00:59", -59_000),
    ("2018-07-30 12:01:01", 0), ("2018-07-30 13:00:00", 0), ("2018-06-30 12:00:01",
                                                             30 * 24 * HOUR - 1000),
    ("1532951990", 10_000), ("1532952061", 0), ("9" * 5000, 0), ("2018", 0), ("²", 0),
    ("2018-06-29 12:00:00", 0), ("1970-01-01 00:00:00", 0), ("2018-02-30 12:00:00", 0)])
def test_dateutc_is_the_time_where_it_can_be(text, ago):
    assert parse_dateutc(text, NOON) == NOON - ago


@pytest.mark.parametrize("text", [
    "2018-07-30+11:59:00", "2018-07-30%2011%3A59%3A00", "2018-7-30%2011:59:0"])
def test_dateutc_as_it_is_written_in_a_url(console, text):
    report(console, dateutc=text, tempf=68, indoortempf=70)
    assert {row[0] for row in rows_of(console.path)} == {NOON - MINUTE}


# -- who ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("path", [
    PATH.replace(KEY, "wrong"), PATH.replace(ID, "NOBODY"), PATH.replace(f"&PASSWORD={KEY}", ""),
    "/data/report/wrong", "/data/report/", "/data/report"])
def test_a_wrong_key_is_told_in_plain_text(console, path, method):
    response = report(console, path, method, b"humidity=5" * (method == "POST"), tempf=68)
    assert response.status == 403
    assert response.text.startswith("INVALIDPASSWORDID")
    assert response.headers["content-type"].startswith("text/plain")
    assert stored(console) == {}


def test_the_key_is_asked_for_before_anything_is_parsed(console):
    assert report(console, PATH.replace(KEY, "wrong"), tempf="odd").status == 403
    assert report(console, tempf="odd").status == 400


def test_guessing_ends_here_too(console):
    said = [report(console, PATH.replace(KEY, f"guess{n}"), tempf=1).status for n in range(110)]
    assert said[:100] == [403] * 100
    assert set(said[100:]) == {429}
    assert report(console, tempf=68).status == 429, "its address has never had a right one"


def test_one_report_is_one_update_for_the_limit(in_process):
    server = in_process(rate_limit=2)
    add_console(server.writer, "garden outside", ID.lower(), hash_key(KEY).hex(), NOON)
    form = {name: 50 for name, (_, _, unit) in UPLOADS.items() if unit}
    assert [report(server, **form).status for _ in range(3)] == [200, 200, 429]
    limited = report(server, **form)
    assert "retry-after" in limited.headers
    assert limited.headers["content-type"].startswith("text/plain")


@pytest.mark.parametrize("path", [PATH.partition("?")[0], f"/data/report/{KEY}", "/data/report/"])
def test_a_browser_is_told_what_the_address_is_for(console, path):
    page = console.get(path, Accept="text/html,application/xhtml+xml")
    assert page.status == 200
    assert page.headers["content-type"].startswith("text/html")
    assert "--console" in page.text
    assert KEY not in page.text
    assert stored(console) == {}


def test_other_paths_and_methods_there_are_not(console):
    for path in ("/data/", "/data/other", "/weatherstation/", "/weatherstation/other.php?ID=1"):
        assert console.get(path).status == 404
    for method in ("HEAD", "PUT"):
        assert console.ask(method, PATH).status == 405


# -- its stations ---------------------------------------------------------------------------------


def test_more_rooms_become_stations_by_themselves(console):
    assert console.ask("POST", f"/data/report/{KEY}", ROOMS_FORM).status == 200
    assert stored(console) == {"": {3: 991.8}, "in": {1: 25.28, 2: 44, 3: 991.8},
                               "ch1": {1: 24.8, 2: 46}, "ch2": {1: 24.5, 2: 47}}
    rooms = console.reader.stations()[-2:]
    assert [(s.name, s.mac, s.role, s.key, s.last_entry) for s in rooms] == [
        ("garden ch1", "garden-ch1", None, None, 1), ("garden ch2", "garden-ch2", None, None, 1)]
    assert console.server.events.is_reset       # open pages ask for the stations again
    assert console.ask("POST", f"/data/report/{KEY}", ROOMS_FORM).status == 200
    assert [s.last_entry for s in console.reader.stations()[-4:]] == [2, 2, 2, 2]
    assert problems_of(console.path) == []


def test_rooms_stand_on_the_page_and_have_verdicts_once_they_have_a_role(console):
    exchange(console, [ECOWITT])
    console.ask("POST", f"/data/report/{KEY}", ROOMS_FORM.replace(b"tempinf", b"x"))
    assert "garden ch1" in console.get("/", Accept="text/html").text
    console.writer.edit_station("garden ch1", None, None, "inside")
    console.server.board.expires = 0
    assert {v["station"] for v in console.get("/api/verdict").json["verdicts"]} == {
        "inside", "garden inside", "garden ch1"}


def test_a_room_never_writes_into_a_station_of_somebody_else(console):
    for room, name, mac in ((1, "cellar", "garden-ch1"), (2, "garden ch2", "cc:02")):
        console.writer.add_station(name, mac, None, hash_key(f"other{room}").hex(), NOON)
    assert console.ask("POST", f"/data/report/{KEY}", ROOMS_FORM).status == 200
    stations = {s.name: s for s in console.reader.stations()}
    assert stations["cellar"].last_entry == stations["garden ch2"].last_entry == 0
    assert stations["garden-ch2"].last_entry == 1       # its name was taken, its MAC was not
    assert report(console, temp1f=70).status == 400     # what would be lost is no success


def test_an_imported_room_is_taken_over(console):
    console.writer.import_rows([(NOON, "garden ch1", "garden-ch1", 1, 20, None)], NOON)
    assert report(console, temp1f=68, dateutc="2018-07-30 11:00:00").status == 200
    station, = (s for s in console.reader.stations() if s.name == "garden ch1")
    assert station.console == console.reader.stations()[2].id
    assert station.last_entry == 2
    assert report(console, temp2f=68).status == 200     # the next one has a number of its own
    assert [(s.name, s.last_entry) for s in console.reader.stations()[4:]] == [
        ("garden ch1", 2), ("garden ch2", 1)]


def test_two_consoles_do_not_share_rooms(console):
    add_console(console.writer, "attic outside", "attic", hash_key("ATTIC").hex(), NOON)
    for key in (KEY, "ATTIC"):
        assert report(console, f"/data/report/{key}", temp1f=68, tempinf=70).status == 200
    assert [(s.name, s.last_entry) for s in console.reader.stations()[2:]] == [
        ("garden outside", 0), ("garden inside", 1), ("attic outside", 0), ("attic inside", 1),
        ("garden ch1", 1), ("attic ch1", 1)]
    while console.writer.remove_step("attic ch1") >= 0:
        pass
    console.writer.edit_station("garden ch1", None, "attic-ch1", None)
    assert report(console, "/data/report/ATTIC", temp1f=68).status == 400
    assert console.reader.stations()[-1].last_entry == 1


def test_a_station_that_is_no_console_takes_reports_too(server):
    assert server.get(f"/data/report/{OUTSIDE.key}?temp=20").text == "success"
    assert server.get(f"/data/report/{OUTSIDE.key}?tempinf=68").text == "success"
    assert [(s.name, s.role, s.last_entry) for s in server.reader.stations()] == [
        ("inside", "inside", 0), ("outside", "outside", 1), ("outside inside", None, 1)]


def test_the_key_writes_to_inside_by_our_own_url_too(console):
    assert console.get(f"/update/API_key={KEY}/mac={ID}-in/field=1/data=20").text == "1"
    assert console.get(f"/update/API_key=wrong/mac={ID}-in/field=1/data=20").status == 403
    assert console.get(f"/update/API_key={KEY}/mac={INSIDE.mac}/field=1/data=20").status == 403


@pytest.mark.parametrize("name", ["garden outside", "garden inside"])
def test_a_new_key_serves_all_of_a_console_from_its_first_use(console, name):
    assert console.writer.new_key(name, hash_key("SECOND").hex())
    assert report(console, indoortempf=68).status == 200
    assert console.get(f"/update/API_key=SECOND/mac={ID}-in/field=1/data=20").status == 200
    assert report(console, tempf=68).status == 403
    assert report(console, PATH.replace(KEY, "SECOND"), tempf=68, indoortempf=68).status == 200


def test_an_edited_console_keeps_its_rooms(console):
    console.ask("POST", f"/data/report/{KEY}", ROOMS_FORM)
    console.writer.edit_station("garden outside", "patio outside", "new:id", None)
    console.writer.edit_station("garden inside", "hall", None, None)
    assert report(console, PATH.replace(ID, "NEW:ID"), indoortempf=68, temp1f=68).status == 200
    assert [(s.name, s.mac, s.last_entry) for s in console.reader.stations()[2:]] == [
        ("patio outside", "new:id", 1), ("hall", "new:id-in", 2), ("garden ch1", "new:id-ch1", 2),
        ("garden ch2", "new:id-ch2", 1)]
    for mac, said in (("x" * 29, "28 characters"), (INSIDE.mac, "already")):
        with pytest.raises(iotserver.StoreError, match=said):
            console.writer.edit_station("patio outside", None, mac, None)
    console.writer.add_station("x", "other-in", None, None, NOON)
    with pytest.raises(iotserver.StoreError, match="already"):
        console.writer.edit_station("patio outside", None, "other", None)


def test_a_room_with_a_mac_of_its_own_keeps_it_when_its_console_is_edited(console):
    console.writer.edit_station("garden inside", None, "hall", None)
    console.writer.edit_station("garden outside", "patio outside", None, None)
    console.writer.edit_station("patio outside", None, "new:id", "none")
    assert [(s.name, s.mac, s.role) for s in console.reader.stations()[2:]] == [
        ("patio outside", "new:id", None), ("garden inside", "hall", "inside")]


def test_a_removed_console_leaves_its_rooms_and_can_come_again(console):
    console.ask("POST", f"/data/report/{KEY}", ROOMS_FORM)
    while console.writer.remove_step("garden outside") >= 0:
        pass
    assert report(console, tempf=68).status == 403
    assert console.get(f"/update/API_key={KEY}/mac={ID}-in/field=1/data=20").status == 403
    add_console(console.writer, "garden outside", ID.lower(), hash_key("AGAIN").hex(), NOON)
    assert report(console, "/data/report/AGAIN", tempf=68, tempinf=68, temp1f=68).status == 200
    assert {s.name: s.last_entry for s in console.reader.stations()[2:]} == {
        "garden inside": 2, "garden ch1": 2, "garden ch2": 1, "garden outside": 1}
    assert problems_of(console.path) == []


def test_a_console_is_registered_as_a_whole_or_not_at_all(server):
    server.writer.add_station("garden inside", "aa", None, hash_key("AA").hex(), NOON)
    for name, mac, key in (("garden outside", "g", "G"), ("garden outside", "g", INSIDE.key),
                           ("attic outside", INSIDE.mac, "G")):
        with pytest.raises(iotserver.StoreError):
            add_console(server.writer, name, mac, hash_key(key).hex(), NOON)
    assert len(server.reader.stations()) == 3


def test_a_room_of_a_console_is_not_registered_by_somebody_else(console):
    with pytest.raises(iotserver.StoreError, match="garden inside"):
        console.writer.add_station("mine", "garden-in", "inside", hash_key("MINE").hex(), NOON)


def test_labels_come_with_the_registration(console):
    fields = {s["name"]: {f["field"]: f["label"] for f in s["fields"]}
              for s in console.get("/api/stations").json}
    assert fields["garden outside"][4] == "wind m/s"
    assert len(fields["garden outside"]) == 9
    assert fields["garden inside"] == {
        1: "temperature °C", 2: "humidity %", 3: "pressure hPa"}


# -- all or nothing -------------------------------------------------------------------------------


def test_a_failed_commit_leaves_neither_readings_nor_rooms(console):
    before = rows_of(console.path), console.reader.stations()
    real, console.writer.db = console.writer.db, Failing(console.writer.db)
    assert console.ask("POST", f"/data/report/{KEY}", ROOMS_FORM).status == 503
    console.writer.db = real
    assert (rows_of(console.path), console.reader.stations()) == before
    assert console.ask("POST", f"/data/report/{KEY}", ROOMS_FORM).status == 200
    assert set(stored(console)) == {"", "in", "ch1", "ch2"}


class Failing:
    """A connection whose last write of a commit fails."""

    def __init__(self, db):
        self.db = db

    def __getattr__(self, name):
        return getattr(self.db, name)

    def executemany(self, sql, rows):
        if sql.startswith("UPDATE station SET heard"):
            raise sqlite3.OperationalError("disk is asleep")
        return self.db.executemany(sql, rows)


def test_reports_of_one_turn_are_one_transaction(console):
    commits = []
    console.writer.db.set_trace_callback(lambda sql: commits.append(sql) if sql == "COMMIT" else 0)
    connections = [console.connect() for _ in range(20)]
    for connection, raw in zip(connections, itertools.cycle([OBSERVER_IP, ECOWITT])):
        connection.data_received(raw)
    console.server.loop.run()
    assert len(commits) == 1
    for connection in connections:
        assert connection.transport.sent.endswith(b"success")
        connection.connection_lost(None)
    assert {s.name: s.last_entry for s in console.reader.stations()[2:]} == {
        "garden outside": 20, "garden inside": 20}


# -- from the command line to the page ------------------------------------------------------------


def fields(said):
    """What the registration says to type: {protocol: {field: value}}."""
    shared = dict(re.findall(r"^(\w[\w /]*): +(\S+)", said.split("# as Proto")[0], re.MULTILINE))
    found, protocol = {}, ""
    for line in said.split("three that it has\n")[1].split("\n\n")[0].splitlines():
        name, what, value = re.fullmatch(r"(?:(\w+): )? +([\w ]+): +(\S+)", line).groups()
        protocol = name or protocol
        found.setdefault(protocol, {**shared})[what] = value
    return found


def test_what_is_printed_works_when_it_is_typed(live, run):
    """With each of the three protocols, as its consoles send it."""
    said = fields(run("--add-station", "garden", "--mac", ID, "--console", "--key", KEY))
    assert {*said} == {"Ecowitt", "AMBWeather", "Wunderground"}
    typed = said["Wunderground"]
    assert typed["Port"] == str(live.port)
    assert typed["Server IP / Hostname"] == iotserver.lan_address()
    assert live.ask("POST", said["Ecowitt"]["Path"], ECOWITT_FORM).text == "success"
    assert live.get(said["AMBWeather"]["Path"] + "&PASSKEY=1&tempf=68").text == "success"
    assert live.get(f"{typed['Path']}ID={typed['Station ID']}&PASSWORD={typed['Station Key']}"
                    "&tempf=68&dateutc=now").text == "success"
    assert [re.split("  +", line)[1:4] for line in run("--stations").splitlines()[3:]] == [
        ["garden outside", "outside", "garden"], ["garden inside", "inside", "garden-in"]]


@pytest.mark.parametrize(("flags", "status", "said"), [
    (["garden"], 2, "--mac"), (["garden", "--mac", "g", "--role", "inside"], 2, "--console"),
    (["garden", "--mac", "g" * 28], 2, "27"), (["g" * 60, "--mac", "g"], 2, "64"),
    (["garden", "--mac", INSIDE.mac], 1, "already"),
    (["garden", "--mac", "g", "--key", INSIDE.key], 1, "already")])
def test_a_console_that_cannot_be_is_not_registered(database, run, flags, status, said):
    before = run("--stations")
    run("--add-station", *flags, "--console", status=status, stderr=said)
    assert run("--stations") == before


def test_console_goes_with_add_station_alone(database, run):
    run("--new-key", "inside", "--console", status=2, stderr="--add-station")


@pytest.fixture
def garden_history(database, run, serve):
    run("--add-station", "garden", "--mac", ID, "--console", "--key", KEY)
    live = serve()
    for form in (ECOWITT_FORM, ROOMS_FORM):
        assert live.ask("POST", f"/data/report/{KEY}",
                        re.sub(rb"dateutc=[^&]*", b"dateutc=now", form)).status == 200
    assert live.stop() == 0


def test_a_registered_console_comes_back_from_its_export(garden_history, run):
    """Its CSV brings the stations back; registered again, they are the console's."""
    run("--export", "all.csv")
    run("--db", "new.db", "--import", "all.csv")
    run("--db", "new.db", "--add-station", "garden", "--mac", ID, "--console", "--key", "NEW")
    listed = run("--db", "new.db", "--stations").splitlines()[1:]
    assert [re.split("  +", line)[1:4] for line in listed] == [
        ["garden outside", "outside", "garden"], ["garden inside", "inside", "garden-in"],
        ["garden ch1", "-", "garden-ch1"], ["garden ch2", "-", "garden-ch2"]]
