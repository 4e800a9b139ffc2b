"""/api/verdict and /verdict.txt: the answer for widgets and scripts, which cannot log in."""
import json
import re

import pytest
from harness import INSIDE, NOON, OUTSIDE, basic

import iotserver

PARTS = {"station", "state", "since", "inside", "outside", "difference", "inside_dew_point",
         "outside_dew_point", "pm25", "rain", "text", "forecast"}


def send(server, inside, outside):
    for _ in range(3):
        server.update(INSIDE, inside)
        server.update(OUTSIDE, outside)
        server.time += 60


def test_the_answer_as_json_and_in_words(server):
    send(server, 26.5, 29)
    answer = server.get("/api/verdict")
    verdict, = answer.json["verdicts"]
    assert verdict.keys() == PARTS
    assert (verdict["station"], verdict["state"], verdict["difference"]) == (
        "inside", "close", -2.5)
    assert (verdict["inside"], verdict["outside"], verdict["forecast"]) == (26.5, 29, None)
    assert NOON <= verdict["since"] <= server.time * 1000
    assert verdict["text"] == "Keep the windows closed: it is 2.5 °C warmer outside."
    assert server.get("/verdict.txt", Accept_Language="de").text == f"inside: {verdict['text']}\n"
    assert "4.5 °F" in server.get("/verdict.txt", Accept_Language="en-US").text


def test_without_stations_there_is_an_answer_all_the_same(server):
    verdict, = server.get("/api/verdict").json["verdicts"]
    assert (verdict["state"], verdict["inside"], verdict["difference"]) == ("unknown", None, None)
    assert server.get("/verdict.txt").text.startswith("inside: No answer")


def test_without_a_room_there_is_an_answer_too(in_process):
    house = in_process()
    house.writer.edit_station(INSIDE.name, None, None, "none")
    assert house.get("/api/verdict").json == {"verdicts": []}
    assert house.get("/verdict.txt").text.startswith("No answer yet: ")


def refuse_constant(name):
    raise AssertionError(f"{name} is no JSON")


@pytest.mark.wings("Metrics")
@pytest.mark.parametrize("sign", [1, -1])
def test_no_number_is_infinite(server, sign):
    """Nor is the difference of two that are finite, or the sum of an hour."""
    send(server, sign * 1.7e308, sign * -1.7e308)
    for path in ("/api/verdict", "/api/stations", "/api/readings?station=inside",
                 "/channels/1/feeds.json?sum=60", "/channels/1/feeds.json?average=60"):
        answer = server.get(path)
        json.loads(answer.text, parse_constant=refuse_constant)
        assert "inf" not in answer.text.lower().replace("inside", "")
    told = re.findall("^data: (.*)$", server.get("/events").text, re.MULTILINE)
    assert any('"difference":' in data for data in told)
    for data in told:
        json.loads(data, parse_constant=refuse_constant)
    assert "inf" not in server.get("/metrics").text.lower().replace('le="+inf"', "").replace(
        "build_info", "")


@pytest.mark.parametrize("path", ["/api/verdict", "/verdict.txt", "/api/stations",
                                  "/api/readings?station=inside"])
def test_scripts_of_other_sites_may_read_it(server, path):
    headers = server.get(path).headers
    assert headers["access-control-allow-origin"] == "*"
    assert headers["cross-origin-resource-policy"] == "cross-origin"
    assert server.get("/healthz").headers["cross-origin-resource-policy"] == "same-origin"


@pytest.mark.wings("Private page")
def test_a_private_server_wants_a_key_or_the_password(in_process, tmp_path):
    file = tmp_path / "password"
    file.write_text(iotserver.hash_password("correct horse", bytes(16)))
    private = in_process(private=file)
    private.writer.set_read_key(INSIDE.name, iotserver.hash_key("READ").hex())
    for path in ("/api/verdict", "/verdict.txt"):
        assert private.get(path).status == 401
        assert private.get(path, X_API_Key="wrong").status == 401
        assert private.get(path, X_API_Key="READ").status == 200
        assert private.get(f"{path}?key=READ").status == 200
        assert private.get(path, Authorization=basic("correct horse")).status == 200
    assert private.get("/api/stations", X_API_Key="READ").status == 401, "only these two"


# -- doubt, and damp air --------------------------------------------------------------------------

def verdict_after(server, *sent, minutes=60):
    """The verdict of the one room after readings of outside, so many minutes apart."""
    for value in sent:
        server.time += minutes * 60
        server.update(INSIDE, 26.5)
        server.update(OUTSIDE, value)
    verdict, = server.get("/api/verdict").json["verdicts"]
    return verdict


def test_an_hourly_station_is_answered_as_it_comes(server):
    """Its 24.4 °C were an hour late, and contradicted the card beside the headline."""
    assert verdict_after(server, 31.5, 28)["state"] == "close"
    verdict = verdict_after(server, 24.4)
    assert (verdict["state"], verdict["outside"]) == ("open", 24.4)


@pytest.mark.parametrize(("sent", "number", "note"), [
    ((20, 31), "20.0", "31.0 °C came last; waiting for a second reading"),
    ((20, 31, 30.5), "30.5", None), ((20, 31, 20.5), "20.5", None),
    ((20, 85), "20.0", "85.0 °C came last, which is impossible"),
    ((85,), "–", "85.0 °C came last, which is impossible")])
def test_a_doubted_reading_waits_and_the_page_says_so(server, sent, number, note):
    """Every number of outside on page, headline, JSON is the one that counts."""
    verdict_after(server, 20)
    server.time += 3600 * 24 * 20 * (sent == (85,))
    verdict = verdict_after(server, *sent, minutes=12)
    page = server.get("/", Accept_Language="nl-NL").text
    assert (note in page) if note else ("came last" not in page)
    if number != "–":
        assert f"{verdict['outside']:.1f}" == number
        assert re.search(rf'class="big">{number}<', page), page
        said = verdict["text"]
        assert f"{abs(26.5 - verdict['outside']):.1f}".removesuffix(".0") in said
    else:
        assert verdict["outside"] is None


def test_who_sends_doubted_readings_is_not_silent_but_impossible_ones_are_no_sign_of_life(server):
    verdict_after(server, 20, 20.2)
    assert verdict_after(server, 31, minutes=5)["state"] == "open"
    for _ in range(100):
        verdict = verdict_after(server, 85, minutes=5)
    assert verdict["state"] == "unknown"
    assert "has been silent for 8 h" in verdict["text"]


def test_damp_air_outside_is_named_while_its_humidity_is_fresh(server):
    for _ in range(3):
        for station, celsius, humidity in ((INSIDE, 26, 48), (OUTSIDE, 22, 83)):
            server.update(station, celsius)
            server.update(station, humidity, field=2)
        server.time += 60
    verdict, = server.get("/api/verdict").json["verdicts"]
    assert verdict["text"].endswith("The air is more humid outside: dew point 19 °C outside, "
                                    "14 °C inside.")
    assert (verdict["inside_dew_point"], verdict["outside_dew_point"]) == (14.1, 19.0)
    server.writer.label("outside", 2, "soil %")
    assert server.get("/api/verdict").json["verdicts"][0]["outside_dew_point"] is None
    server.writer.label("outside", 2, "relative humidity %")
    for _ in range(20):
        server.time += 60
        server.update(INSIDE, 26)
        server.update(OUTSIDE, 22)
    assert server.get("/api/verdict").json["verdicts"][0]["outside_dew_point"] is None
