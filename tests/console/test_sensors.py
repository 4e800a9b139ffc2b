"""What sensors of air and rain send: an airRohr, a Ruuvi Gateway, those of Ecowitt's consoles."""
import json

import pytest
from harness import NOON, add_console, problems_of, rows_of

import iotserver
from iotserver import MINUTE, hash_key

KEY, ROHR_KEY = "GTW89NF4", "ROHR1909"
# As it came over the wire, but for the id.
AIRROHR = (
    b'{"esp8266id":"15431234","software_version":"NRZ-2024-135","sensordatavalues":['
    b'{"value_type":"SDS_P1","value":"25.43"},{"value_type":"SDS_P2","value":"17.60"},'
    b'{"value_type":"BME280_temperature","value":"21.34"},'
    b'{"value_type":"BME280_pressure","value":"99613.25"},'
    b'{"value_type":"BME280_humidity","value":"54.12"},{"value_type":"samples","value":"4987234"},'
    b'{"value_type":"signal","value":"-71"}]}')
# Test vectors of Ruuvi's documentation of data format 5: valid, highest, lowest, none.
TAGS = {"CB:B8:33:4C:88:4F": "0201061BFF99040512FC5394C37C0004FFFC040CAC364200CDCBB8334C884F",
        "CB:B8:33:4C:88:50": "0201061BFF9904057FFFFFFEFFFE7FFF7FFF7FFFFFDEFEFFFECBB8334C8850",
        "CB:B8:33:4C:88:51": "0201061BFF9904058001000000008001800180010000000000CBB8334C8851",
        "CB:B8:33:4C:88:52": "0201061BFF9904058000FFFFFFFF800080008000FFFFFFFFFFCBB8334C8852"}


@pytest.fixture
def garden(server):
    """A server with a console, `garden`, and a plain station, `rohr`."""
    add_console(server.writer, "garden outside", "garden", hash_key(KEY).hex(), NOON)
    server.writer.add_station("rohr", "rohr", "outside", hash_key(ROHR_KEY).hex(), NOON)
    return server


def stored(server):
    """{station: {field: value}}; each has one reading of each."""
    found = {}
    for _, name, _, field, value, _ in rows_of(server.path):
        assert field not in found.setdefault(name, {})
        found[name][field] = value
    return found


def labels(server, name):
    fields = next(s["fields"] for s in server.get("/api/stations").json if s["name"] == name)
    return {field["field"]: field["label"] for field in fields if field["label"]}


def gateway(tags, timestamp="1532951990"):
    return json.dumps({"data": {
        "coordinates": "", "timestamp": timestamp, "gw_mac": "C8:25:2D:8E:9C:2C",
        "tags": {mac: {"rssi": -71, "timestamp": timestamp, "data": data}
                 for mac, data in tags.items()}}}).encode()


def values_of(**values):
    return json.dumps({"esp8266id": "1", "sensordatavalues": [
        {"value_type": name, "value": value} for name, value in values.items()]}).encode()


# -- airRohr --------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [f"/data/report/{ROHR_KEY}", f"/data/report/{ROHR_KEY}/"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf", b"\r\n "])
def test_an_airrohr_is_understood(garden, path, mark):
    response = garden.ask("POST", path, mark + AIRROHR, Content_Type="application/json",
                          X_Sensor="esp8266-15431234", Authorization="Basic cm9ocjpyb2hy")
    assert (response.status, response.text) == (200, "success")
    assert stored(garden) == {"rohr": {1: 21.34, 2: 54.12, 3: 996.13, 4: 17.6, 5: 25.43}}
    assert labels(garden, "rohr") == {4: "PM2.5 µg/m³", 5: "PM10 µg/m³"}
    assert len({row[5] for row in rows_of(garden.path)}) == 1, "one entry"
    assert problems_of(garden.path) == []


@pytest.mark.parametrize(("values", "expected"), [
    ({"PMS_P2": "3", "PMS_P1": "4", "PMS_P0": "2"}, {4: 3, 5: 4}),
    ({"SPS30_P4": "9", "SPS30_P2": 8.25, "SPS30_N05": "1"}, {4: 8.25}),
    ({"NPM_P2": "5", "temperature": "20.1", "humidity": "99.9"}, {1: 20.1, 2: 99.9, 4: 5}),
    ({"HPM_P2": "5", "DS18B20_temperature": "-3.06"}, {1: -3.06, 4: 5}),
    ({"IPS_P2": "5", "BMP_pressure": "101325", "BMP_temperature": "1"}, {1: 1, 3: 1013.25, 4: 5}),
    ({"SDS_P2": "nan", "SDS_P1": "7", "HTU21D_humidity": None}, {5: 7}),
    ({"DHT_temperature": "nan", "SHT3X_temperature": "5", "GPS_lat": "52.5"}, {1: 5}),
    ({"P1": "1234", "P2": "99", "humidity": "50"}, {2: 50}),    # a PPD42NS counts, in no µg
    ({"SCD30_co2_ppm": "800", "SCD30_temperature": "21"}, {1: 21})])
def test_each_of_its_sensors_has_its_names(garden, values, expected):
    assert garden.ask("POST", f"/data/report/{ROHR_KEY}", values_of(**values)).status == 200
    assert stored(garden) == {"rohr": expected}


@pytest.mark.parametrize(("body", "status"), [
    (b"{", 400), (b"[]", 400), (b'{"sensordatavalues":[]}', 400),
    (b'{"sensordatavalues":{"a":1}}', 400),
    (b'{"sensordatavalues":[1,null,{},{"value_type":"SDS_P2"}]}', 400), (b"{}", 400),
    (values_of(samples="4987234"), 400), (values_of(SDS_P2="unavailable"), 400),
    (b'{"data":{"tags":[1]}}', 400), (b'{"data":{"tags":{"a":1,"b":{}}}}', 400),
    (gateway({}), 400), (gateway({"CB:B8": TAGS["CB:B8:33:4C:88:52"]}), 400),
    (gateway({"no": TAGS["CB:B8:33:4C:88:4F"]}), 400), (b'{"data":7}', 400),
    (b"{" * 15_000, 400), (b'{"data":"' + b"a" * 17_000 + b'"}', 413)])
def test_json_without_a_reading_is_refused(garden, body, status):
    before = garden.reader.stations()
    assert garden.ask("POST", f"/data/report/{ROHR_KEY}", body).status == status
    assert stored(garden) == {}
    assert garden.reader.stations() == before


def test_its_key_is_asked_for_before_anything_is_parsed(garden):
    assert garden.ask("POST", "/data/report/wrong", AIRROHR).status == 403
    assert stored(garden) == {}


def test_a_label_that_somebody_gave_stays(garden):
    garden.writer.label("rohr", 4, "dust, north side")
    garden.ask("POST", f"/data/report/{ROHR_KEY}", AIRROHR)
    assert labels(garden, "rohr") == {4: "dust, north side", 5: "PM10 µg/m³"}


# -- Ruuvi ----------------------------------------------------------------------------------------


def test_each_tag_becomes_a_station(garden):
    body = gateway(TAGS | {"AA:00": "02010605FF1234", "AB": ""})
    assert garden.ask("POST", f"/data/report/{KEY}", body).status == 200
    assert stored(garden) == {
        "garden 884F": {1: 24.3, 2: 53.49, 3: 1000.44},
        "garden 8850": {1: 163.835, 2: 163.835, 3: 1155.34},
        "garden 8851": {1: -163.835, 2: 0, 3: 500}}
    assert {row[0] for row in rows_of(garden.path)} == {NOON - 10_000}
    tags = garden.reader.stations()[-3:]
    assert [(tag.mac, tag.role, tag.key) for tag in tags] == [
        (f"garden-88{n}", None, None) for n in ("4f", "50", "51")]
    assert labels(garden, "garden 884F") == {}
    assert garden.ask("POST", f"/data/report/{KEY}", body).status == 200
    assert [s.last_entry for s in garden.reader.stations()[-3:]] == [2, 2, 2]
    assert problems_of(garden.path) == []


@pytest.mark.parametrize(("timestamp", "ago"), [
    ("1532951940", MINUTE), (1532951940, MINUTE), ("0", 0), (None, 0), ("1532959999", 0)])
def test_a_tag_was_heard_when_it_says_if_that_can_be(garden, timestamp, ago):
    tag, = list(TAGS.items())[:1]
    garden.ask("POST", f"/data/report/{KEY}", gateway(dict([tag]), timestamp))
    assert {row[0] for row in rows_of(garden.path)} == {NOON - ago}


def test_the_longest_id_of_a_gateway_has_room_for_its_tags(server):
    add_console(server.writer, "g outside", "h" * iotserver.MAX_CONSOLE, hash_key(KEY).hex(), NOON)
    assert server.ask("POST", f"/data/report/{KEY}", gateway(TAGS)).status == 200
    assert server.reader.stations()[-1].mac == "h" * 27 + "-8851"


# -- Ecowitt's ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("names", "expected"), [
    ({"rrain_piezo": "0.1"}, 2.54), ({"rrain_piezo": "0.1", "rainratein": "0.2"}, 5.08),
    ({"rainin": "0.3", "rrain_piezo": "0.1"}, 7.62),
    ({"rrain_piezo": "0.1", "rainratein": "--"}, 2.54)])
def test_a_piezo_gauge_rains_where_no_other_does(garden, names, expected):
    form = "&".join(f"{name}={value}" for name, value in names.items()).encode()
    assert garden.ask("POST", f"/data/report/{KEY}", form + b"&srain_piezo=1").status == 200
    assert stored(garden) == {"garden outside": {7: expected}}


def test_the_sum_of_an_hour_has_a_label_that_says_so(garden):
    garden.ask("POST", f"/data/report/{KEY}", b"rainratein=0.1&rainin=0.3")
    assert labels(garden, "garden outside")[7] == "rain mm/h"
    garden.ask("POST", f"/data/report/{KEY}", b"rainin=0.3")
    assert labels(garden, "garden outside")[7] == "hourly rain mm/h"
    garden.writer.label("garden outside", 7, "Regen mm/h")
    garden.ask("POST", f"/data/report/{KEY}", b"rainin=0.3")
    assert labels(garden, "garden outside")[7] == "Regen mm/h"


def test_sensors_of_dust_become_stations_with_labels(garden):
    assert garden.ask("POST", f"/data/report/{KEY}", (
        b"tempf=68&pm25_ch1=35.0&pm25_avg_24h_ch1=30.1&pm25_ch4=7&tf_co2=77&humi_co2=55"
        b"&pm25_co2=3.1&pm25_24h_co2=2&pm10_co2=4.2&pm10_24h_co2=3&co2=612")).status == 200
    assert stored(garden) == {
        "garden outside": {1: 20}, "garden pm1": {4: 35}, "garden pm4": {4: 7},
        "garden co2": {1: 25, 2: 55, 4: 3.1, 5: 4.2, 6: 612}}
    assert labels(garden, "garden pm1") == labels(garden, "garden pm4") == {4: "PM2.5 µg/m³"}
    assert labels(garden, "garden co2") == {
        4: "PM2.5 µg/m³", 5: "PM10 µg/m³", 6: "CO2 ppm"}
    assert {(s.name, s.role) for s in garden.reader.stations()[5:]} == {
        ("garden pm1", None), ("garden pm4", None), ("garden co2", None)}


def test_an_imported_sensor_has_its_label_again(garden):
    """Our CSV holds no labels."""
    garden.writer.import_rows([(NOON - MINUTE, "garden pm1", "garden-pm1", 4, 20, None)], NOON)
    assert labels(garden, "garden pm1") == {}
    garden.ask("POST", f"/data/report/{KEY}", b"pm25_ch1=35")
    assert labels(garden, "garden pm1") == {4: "PM2.5 µg/m³"}


def test_a_plain_station_that_sends_wind_has_no_dust(garden):
    garden.ask("POST", f"/data/report/{ROHR_KEY}", b"windspeedmph=1&windgustmph=2&field6=3")
    assert labels(garden, "rohr") == {}
