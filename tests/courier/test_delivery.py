"""Messages on their way: from a verdict to destinations that take them, or do not."""
from harness import INSIDE, OUTSIDE, wait_for


def set_temperatures(live, inside, outside):
    for _ in range(3):
        live.update(INSIDE, inside)
        live.update(OUTSIDE, outside)


def test_the_first_evening(database, serve, hook):
    live = serve("--units", "C", "--link", "http://weather.lan/", "--rate-limit", "0",
                 env={"IOTSERVER_NOTIFY": f"json://127.0.0.1:{hook.port}/hook?a=b"})
    set_temperatures(live, 26.4, 25.2)
    wait_for(lambda: hook.messages)
    request, = hook.requests
    assert request.path == "/hook?a=b"
    said = request.json
    text = "Open the windows: it is 1.2 °C cooler outside (inside 26.4, outside 25.2)."
    assert {said[name] for name in ("message", "text", "content", "body")} == {text}
    assert (said["kind"], said["title"], said["station"], said["state"]) == (
        "open", "Open the windows", "inside", "open")
    assert (said["inside"], said["outside"], said["difference"]) == (26.4, 25.2, 1.2)
    assert said["link"] == "http://weather.lan/"
    live.stop()
    live = serve("--rate-limit", "0",
                 env={"IOTSERVER_NOTIFY": f"json://127.0.0.1:{hook.port}/hook?a=b"})
