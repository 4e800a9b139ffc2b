"""Messages on their way: real couriers, and destinations that take them, or do not."""
import collections
import contextlib
import email
import email.policy
import gc
import itertools
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import receivers
from harness import INSIDE, OUTSIDE, SCRIPT, Live, environment, settings, wait_for
from receivers import mail_server, tls
from tools import need, needs

import iotserver

pytestmark = needs("openssl")
LOGIN = "me%40example.org:p%3Ass%20wort"
ADDRESSES = "?from=me@example.org&to=you@example.org"
MESSAGE = {"kind": "test", "id": "test-1", "line": "test", "told": (1, "verdict", "open"),
           "title": "Öffnen", "message": "26.4 °C", "station": "inside", "link": ""}


@pytest.fixture
def certificate(tmp_path):
    """Makes self-signed certificates: certificate("localhost"); certificate and key."""
    def make(name):
        files = [tmp_path / f"{name}.{end}" for end in ("pem", "key")]
        subprocess.run([need("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days",
                        "2", "-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}",
                        "-out", files[0], "-keyout", files[1]], check=True, capture_output=True)
        return files
    return make


@pytest.fixture
def trusted(certificate, monkeypatch):
    """A certificate of localhost that this machine trusts."""
    files = certificate("localhost")
    monkeypatch.setenv("SSL_CERT_FILE", str(files[0]))
    return files


CHANGES = collections.Counter()      # by database


def set_temperatures(live, inside, outside):
    """Three minutes each, of which two have to agree, one set behind the other: so it matters to
    none when a minute begins. One more reading now, since older ones alone change no answer that
    has taken in a newer one."""
    CHANGES[live.db] += 1
    newest = (3 - CHANGES[live.db]) * 180
    for age in (newest + 120, newest + 60, newest):
        live.update(INSIDE, inside, more=f"/age={age}")
        live.update(OUTSIDE, outside, more=f"/age={age}")
    live.update(INSIDE, inside)


def send(url):
    return iotserver.send(iotserver.parse_destination(url), MESSAGE)


def refusal(url):
    with pytest.raises(iotserver.Undelivered) as refused:
        send(url)
    return str(refused.value)


# -- from the verdict to the phone ----------------------------------------------------------------


def test_the_first_evening(database, serve, hook):
    env = {"IOTSERVER_NOTIFY": f"json://127.0.0.1:{hook.port}/hook?a=b"}
    live = serve("--units", "C", "--link", "http://weather.lan/", "--rate-limit", "0", env=env)
    set_temperatures(live, 26.4, 25.2)
    wait_for(lambda: hook.messages, 20)
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
    live = serve("--rate-limit", "0", env=env)
    set_temperatures(live, 26.4, 30)
    wait_for(lambda: hook.kinds == ["open", "close"], 20)
    set_temperatures(live, 26.4, 20)
    wait_for(lambda: hook.kinds == ["open", "close", "open"], 20)


def test_an_end_in_good_order_lets_a_message_arrive_once(database, serve, hook):
    """It is being answered when the server is told to end."""
    env = {"IOTSERVER_NOTIFY": f"json://127.0.0.1:{hook.port}/hook"}
    live = serve("--rate-limit", "0", env=env)
    hook.behave = "slow"
    set_temperatures(live, 26, 20)
    wait_for(lambda: hook.requests, 20)
    assert live.stop() == 0
    hook.behave = 200
    live = serve("--rate-limit", "0", env=env)
    set_temperatures(live, 26, 30)
    wait_for(lambda: "close" in hook.kinds, 20)
    assert hook.kinds == ["open", "close"]


def test_an_end_beside_one_that_hangs_repeats_no_message(database, serve, receiver):
    hooks = [receiver() for _ in range(8)]
    hooks[0].behave = "hang"
    flags = {"IOTSERVER_NOTIFY": " ".join(f"json://127.0.0.1:{h.port}/" for h in hooks)}
    live = serve(env=flags)
    live.expected = r"(?s).*"
    set_temperatures(live, 26, 20)
    wait_for(lambda: all(h.requests for h in hooks), 20)
    live.stop()
    live = serve(env=flags)
    live.expected = r"(?s).*"
    wait_for(lambda: len(hooks[0].requests) > 1, 20)
    assert [len(h.requests) for h in hooks[1:]] == [1] * 7


@pytest.mark.untraced
def test_a_killed_courier_loses_nothing(database, serve, hook):
    live = serve("--rate-limit", "0",
                 env={"IOTSERVER_NOTIFY": f"json://127.0.0.1:{hook.port}/hook"})
    live.expected = "(iotserver: the courier ended with status -9; restarting it\n)+"
    hook.behave = "hang"
    set_temperatures(live, 26, 20)
    wait_for(lambda: hook.requests, 20)
    children = Path(f"/proc/{live.process.pid}/task/{live.process.pid}/children").read_text()
    os.kill(int(children), signal.SIGKILL)
    hook.behave = 200
    wait_for(lambda: hook.kinds == ["open"], 30)


@pytest.mark.untraced
def test_a_killed_server_tells_the_rest_later(database, serve, hook):
    env = {"IOTSERVER_NOTIFY": f"json://127.0.0.1:{hook.port}/hook"}
    live = serve("--rate-limit", "0", env=env)
    hook.behave = 500
    live.expected = "(iotserver: courier: json://127.0.0.1: it answers 500; .*\n)?"
    set_temperatures(live, 26, 20)
    wait_for(lambda: hook.requests, 20)
    live.kill()
    hook.behave = 200
    # The courier of the killed one may hear its 500 only now; both write to one file.
    serve("--rate-limit", "0", env=env).expected = live.expected
    wait_for(lambda: hook.kinds == ["open"], 20)


@pytest.mark.quiet
@pytest.mark.untraced
def test_nineteen_that_hang_delay_neither_the_twentieth_nor_an_update(
        template, database, serve, receiver, tmp_path):
    """Updates in turns with those of a server that has no courier."""
    good, bad = receiver(), receiver()
    bad.behave = "hang"
    urls = [f"json://127.0.0.1:{bad.port}/{i}" for i in range(19)]
    live = serve("--rate-limit", "0", env={
        "IOTSERVER_NOTIFY": " ".join([*urls, f"json://127.0.0.1:{good.port}/"])})
    live.expected = (
        r"(iotserver: courier: json://127\.0\.0\.1: .*; this is tried again\n)*")
    set_temperatures(live, 26, 20)
    wait_for(lambda: good.kinds == ["open"], 20)
    wait_for(lambda: len({request.path for request in bad.requests}) == 19, 20)
    (tmp_path / "other").mkdir()
    shutil.copy(template, tmp_path / "other/iot.db")
    other = Live(tmp_path / "other", "--rate-limit", "0")
    seconds = {live: [], other: []}
    for server in (live, other) * 300:
        began = time.perf_counter()
        server.update(INSIDE, 26)
        seconds[server].append(time.perf_counter() - began)
    other.check_end()
    mine, theirs = (statistics.quantiles(s, n=100)[-1] for s in seconds.values())
    assert mine < max(0.1, 2 * theirs)
    set_temperatures(live, 26, 30)
    wait_for(lambda: good.kinds == ["open", "close"], 30)


# -- destinations that do not take it -------------------------------------------------------------


@pytest.mark.parametrize("behave", [301, 302, 307, 308, 400, 401, 403, 404, 413, 429, 500, 507,
                                    "garble", "cut", "half", "chunks", "hang", "trickle"])
def test_whatever_a_destination_does_it_is_told_when_it_is_well(
        household, hook, receiver, monkeypatch, behave):
    elsewhere = receiver()
    monkeypatch.setattr(iotserver, "TRY_SECONDS", 0.5)
    hook.headers["Location"] = f"http://127.0.0.1:{elsewhere.port}/"
    (messenger,), noted = household().messengers, []
    line = SimpleNamespace(note=lambda *note: noted.append(note),
                           collect=lambda *wishes: [MESSAGE])
    hook.behave = behave
    messenger.step(line)
    assert noted[0][2] == []
    assert noted[0][3]
    if behave in {"hang", "trickle"}:
        assert "no complete answer" in noted[0][3]
    tries = len(hook.requests)
    messenger.step(line)
    assert len(hook.requests) == tries, "not before a pause"
    hook.behave = 200
    messenger.next_try, messenger.refused = 0, {}
    messenger.step(line)
    assert noted[-1][2:] == ([MESSAGE["told"]], "")
    assert elsewhere.requests == [], "no message goes where a redirection points"


@pytest.mark.parametrize("behave", ["200 stalls", "200 is cut", "200 is reset"])
def test_who_has_said_that_it_took_a_message_gets_it_once(household, hook, monkeypatch, behave):
    """Whatever then becomes of its words."""
    monkeypatch.setattr(iotserver, "TRY_SECONDS", 0.5)
    monkeypatch.setattr(iotserver, "PAUSES", (0, 0))
    hook.behave = behave
    home = household()
    home.play(10, inside=26, outside=20)
    assert len(hook.requests) == 1


@pytest.mark.parametrize(("text", "seconds"), [
    ("7", 7), ("86400", 3600), ("Fri, 01 Jan 9999 00:00:00 GMT", 3600), ("soon", 0), ("", 0),
    ("Fri, 01 Jan 2100 00:00:00 +99999999999999", 0)])
def test_how_long_the_other_side_wants_us_to_wait(text, seconds):
    assert iotserver.parse_pause(text) == seconds


def test_nobody_there(receiver):
    gone = receiver()
    gone.close()
    assert "refused" in refusal(f"json://127.0.0.1:{gone.port}/")
    assert refusal("json://nowhere.invalid/")


def test_pauses_grow_and_are_as_long_as_the_other_side_wants(monkeypatch):
    clock = SimpleNamespace(now=1000.0, monotonic=lambda: clock.now, time=time.time)
    monkeypatch.setattr(iotserver, "time", clock)
    messenger, = iotserver.ERRANDS["notify"](settings(notify="json://x/"))
    line = SimpleNamespace(note=lambda *note: None, collect=lambda *wishes: [MESSAGE])
    tries = []

    def fail(message):
        tries.append(clock.now)
        raise iotserver.Undelivered("no", pause=900 if len(tries) == 9 else 0)
    messenger.send = fail
    for _ in range(3600):
        clock.now += 1
        messenger.step(line)
    pauses = [b - a for a, b in itertools.pairwise(tries)]
    assert pauses[:5] == [10, 20, 40, 80, 160]
    assert max(pauses) == 900
    assert len([t for t in tries if t < 1600]) <= 40


def resident():
    """Bytes of memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_three_hundred_failed_tries_cost_no_memory(receiver, trusted, household, monkeypatch):
    """Of eight destinations with TLS; a context of it holds all certificates of this machine."""
    monkeypatch.setattr(iotserver, "PAUSES", (0, 0))
    hooks = [receiver(context=tls(*trusted)) for _ in range(8)]
    home = household(notify=" ".join(f"jsons://localhost:{hook.port}/" for hook in hooks))
    home.play(2, inside=26, outside=20)
    for hook in hooks:
        hook.behave = 503
    home.play(4, inside=26, outside=20)
    home.play(2, inside=26, outside=30)
    gc.collect()
    gc.disable()                        # so that what waits for it counts, too
    made, before = iotserver.tls.cache_info().misses, resident()
    try:
        for _ in range(40):
            home.carry()
            for hook in hooks:
                hook.requests.clear()
        assert resident() - before < 20_000_000
        assert gc.collect() < 5000
    finally:
        gc.enable()
    assert iotserver.tls.cache_info().misses == made


def test_a_proxy_of_the_environment_is_used(hook, monkeypatch):
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{hook.port}")
    monkeypatch.delenv("no_proxy", raising=False)
    send("json://hook.example.org/x")
    assert hook.requests[0].path == "http://hook.example.org/x"


# -- TLS ------------------------------------------------------------------------------------------


def test_a_certificate_that_is_trusted(receiver, trusted):
    https = receiver(context=tls(*trusted))
    assert send(f"jsons://localhost:{https.port}/x").startswith("200 ")
    assert send(f"ntfys://me:p%3Ass%20wort@localhost:{https.port}/topic").startswith("200 ")
    assert https.requests[1].headers["Authorization"] == "Basic bWU6cDpzcyB3b3J0"


@pytest.mark.parametrize("name", ["localhost", "example.org"])
def test_a_certificate_that_is_not(receiver, certificate, name, monkeypatch):
    files = certificate(name)
    if name == "example.org":           # trusted, but another's
        monkeypatch.setenv("SSL_CERT_FILE", str(files[0]))
    https = receiver(context=tls(*files))
    assert "certificate verify failed" in refusal(f"jsons://localhost:{https.port}/secret-path")
    assert https.requests == []


# -- mail -----------------------------------------------------------------------------------------


def test_a_mail():
    with mail_server() as box:
        send(f"mailto://127.0.0.1:{box.port}/{ADDRESSES},them@example.org")
    mail, = box.mails
    assert mail.rcpt_tos == ["you@example.org", "them@example.org"]
    said = email.message_from_bytes(mail.content, policy=email.policy.default)
    assert (said["Subject"], said["From"]) == ("Öffnen", "me@example.org")
    assert said["Auto-Submitted"] == "auto-generated"
    assert said["Message-ID"] == "<test-1@iotserver>"
    assert said["Date"]
    assert said.get_content().strip() == "26.4 °C"


def test_who_of_several_is_refused_is_named():
    """The others have it: to send it again would be a second one for them."""
    with mail_server() as box:
        assert send(f"mailto://127.0.0.1:{box.port}/{ADDRESSES},nobody@example.org").endswith(
            ", but not for nobody@example.org")
        assert "550" in refusal(
            f"mailto://127.0.0.1:{box.port}/?from=me@example.org&to=nobody@example.org")
    assert [mail.rcpt_tos for mail in box.mails] == [["you@example.org"]]


def test_a_plus_in_an_address_stays_one():
    with mail_server() as box:
        send(f"mailto://127.0.0.1:{box.port}/?from=me+iot@example.org&to=you%2Bhome@example.org")
    mail, = box.mails
    assert (mail.mail_from, mail.rcpt_tos) == ("me+iot@example.org", ["you+home@example.org"])


def test_a_mail_with_password_over_starttls(trusted):
    with mail_server(tls(*trusted)) as box:
        send(f"mailtos://{LOGIN}@localhost:{box.port}/{ADDRESSES}")
        assert len(box.mails) == 1
        said = refusal(f"mailtos://me:wrong@localhost:{box.port}/{ADDRESSES}")
        assert "535" in said
        assert "wrong" not in said
        assert len(box.mails) == 1


def test_a_login_of_a_mail_may_have_umlauts(trusted, monkeypatch):
    monkeypatch.setattr(receivers, "RIGHT", ("möwe@example.org".encode(), "pä ß".encode()))
    with mail_server(tls(*trusted)) as box:
        send(f"mailtos://m%C3%B6we%40example.org:p%C3%A4%20%C3%9F@localhost:{box.port}/{ADDRESSES}")
        assert len(box.mails) == 1
        assert "535" in refusal(
            f"mailtos://m%C3%B6we%40example.org:x@localhost:{box.port}/{ADDRESSES}")


@pytest.mark.parametrize("begins", [b"", b"220 hello\r\n"], ids=["greeting", "answer"])
def test_a_mail_server_that_trickles_is_given_up(monkeypatch, begins):
    monkeypatch.setattr(iotserver, "TRY_SECONDS", 1)

    def trickle(listener):
        channel, _ = listener.accept()
        with channel, contextlib.suppress(OSError):
            channel.sendall(begins)
            for _ in range(100):
                channel.sendall(b"2")
                time.sleep(0.1)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=trickle, args=(listener,), daemon=True).start()
        began = time.monotonic()
        assert refusal(f"mailto://127.0.0.1:{listener.getsockname()[1]}/{ADDRESSES}")
        assert time.monotonic() - began < 5


def test_a_mail_server_that_wants_no_mail_says_so():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        def refuse():
            with listener.accept()[0] as channel:
                channel.sendall(b"554 no mail here\r\n")
                channel.recv(100)
        threading.Thread(target=refuse, daemon=True).start()
        assert "no mail here" in refusal(
            f"mailto://127.0.0.1:{listener.getsockname()[1]}/{ADDRESSES}")


def test_a_connection_that_is_made_late_is_cut_too(monkeypatch):
    """The first address of a name may take all the time until the second one answers."""
    monkeypatch.setattr(iotserver, "TRY_SECONDS", 0.1)
    line = SimpleNamespace(sock=None)
    ours, theirs = socket.socketpair()
    with ours, theirs, iotserver.in_time(line):
        time.sleep(0.3)
        line.sock = ours
        theirs.settimeout(5)
        assert theirs.recv(1) == b""


@needs("root")
@pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")    # nor does it know
def test_a_mail_over_tls_from_the_start(trusted, monkeypatch):
    """On port 465, as it has to be."""
    with mail_server(tls(*trusted), at_once=True, port=465) as box:
        send(f"mailtos://{LOGIN}@localhost:465/{ADDRESSES}")
        assert len(box.mails) == 1


def test_without_tls_there_is_neither_password_nor_mail(certificate):
    with mail_server() as box:
        assert "STARTTLS" in refusal(f"mailtos://{LOGIN}@localhost:{box.port}/{ADDRESSES}")
        assert box.mails == []
    with mail_server(tls(*certificate("localhost"))) as box:        # nobody trusts it
        assert "certificate verify failed" in refusal(
            f"mailtos://{LOGIN}@localhost:{box.port}/{ADDRESSES}")
        assert box.mails == []


# -- --try-message --------------------------------------------------------------------------------


def try_message(folder, urls):
    began = time.monotonic()
    done = subprocess.run([sys.executable, SCRIPT, "--try-message"], cwd=folder, text=True,
                          capture_output=True, timeout=60, check=False,
                          env=environment(IOTSERVER_NOTIFY=" ".join(urls)))
    return done, time.monotonic() - began


def test_a_try_says_what_each_answers(tmp_path, receiver):
    good, bad, hanging = receiver(), receiver(), receiver()
    bad.behave, hanging.behave = 403, "hang"
    with mail_server() as box:
        done, seconds = try_message(tmp_path, [
            f"ntfy://127.0.0.1:{good.port}/topic", f"json://a:s3cr3t@127.0.0.1:{bad.port}/",
            f"json://127.0.0.1:{hanging.port}/", f"mailto://127.0.0.1:{box.port}/{ADDRESSES}"])
        assert len(box.mails) == 1
    assert (done.returncode, list(tmp_path.iterdir())) == (1, [])
    lines = done.stdout.splitlines()
    assert lines[0] == 'ntfy://127.0.0.1: 200 {"id":"hwQ2YpKdmg","said":"°"}'
    assert lines[1].startswith('json://127.0.0.1: failed: it answers 403 {"id":"hwQ2YpKdmg"')
    assert lines[2].startswith("json://127.0.0.1: failed: ")
    assert lines[3].startswith("mailto://127.0.0.1: 250")
    assert "s3cr3t" not in done.stdout + done.stderr
    assert done.stderr == "iotserver: 2 of 4 destinations did not accept the message\n"
    assert seconds < 20
    assert good.messages[0]["message"] == "This is a test: messages arrive."


def test_a_try_that_all_take(tmp_path, hook):
    done, _ = try_message(tmp_path, [f"json://127.0.0.1:{hook.port}/"])
    assert (done.returncode, done.stderr) == (0, "")
    assert hook.kinds == ["test"]
    assert hook.messages[0]["station"] is None


def test_the_url_of_a_mistake_is_not_shown(run):
    run("--try-message", status=2, stderr="needs --notify")
    run("--notify", "jsons://me:s3cr3t/x", status=2, stderr="--notify (or IOTSERVER_NOTIFY)")
