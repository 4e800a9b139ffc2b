"""/api/verdict and /verdict.txt: the answer for widgets and scripts, which cannot log in."""
import pytest
from harness import INSIDE, NOON, OUTSIDE, basic

import iotserver

PARTS = {"station", "state", "since", "inside", "outside", "difference", "text", "forecast"}


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


@pytest.mark.parametrize("path", ["/api/verdict", "/verdict.txt", "/api/stations",
                                  "/api/readings?station=inside"])
def test_scripts_of_other_sites_may_read_it(server, path):
    headers = server.get(path).headers
    assert headers["access-control-allow-origin"] == "*"
    assert headers["cross-origin-resource-policy"] == "cross-origin"
    assert server.get("/healthz").headers["cross-origin-resource-policy"] == "same-origin"


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
