"""nginx and the server agree on what was asked: never are two requests made out of one.

Hypothesis writes requests, spoils some of their bytes, and sends each to the server alone and
through a real nginx, which keeps its connections to the server alive. What was asked shows in what
is stored, as every value is sent once; and in the log of nginx, which says what it has passed on.
"""
import asyncio
import collections
import contextlib
import functools
import itertools
import json
import re
import shutil
import subprocess
import urllib.parse
from types import SimpleNamespace
from typing import NamedTuple

import pytest
from harness import INSIDE, Live, rows_of, update_path, wait_for
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tools import need, needs

pytestmark = needs("nginx")
CONFIG = """daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;
events {{}}
http {{
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    log_format seen escape=json '{{"method":"$request_method","target":"$request_uri",'
                                '"body":"$request_body","upstream":"$upstream_status"}}';
    access_log {folder}/seen.log seen;
    upstream iotserver {{ server 127.0.0.1:{port}; keepalive 8; }}
    server {{
        listen unix:{folder}/nginx.sock;
        proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $host;
        proxy_next_upstream off;
        location / {{ proxy_pass http://iotserver; }}
    }}
}}
"""
QUIET = 0.4                         # s without an answer: the server waits for more, too


@pytest.fixture(scope="module")
def nginx(template, tmp_path_factory):
    """nginx before a server: where it listens, and what it has seen."""
    program = need("nginx")
    # Not below the folder of pytest: the path of a unix socket has 107 bytes at most.
    folder = tmp_path_factory.mktemp("nginx")
    shutil.copy(template, folder / "iot.db")
    live = Live(folder, "--rate-limit", "0")
    config = folder / "nginx.conf"
    config.write_text(CONFIG.format(folder=folder, port=live.port))
    with subprocess.Popen([program, "-p", folder, "-c", config],
                          stderr=subprocess.DEVNULL) as process:
        wait_for(lambda: process.poll() is not None or (folder / "pid").exists(), 10)
        with (folder / "seen.log").open(encoding="utf-8", errors="replace") as log:
            yield SimpleNamespace(live=live, socket=str(folder / "nginx.sock"), log=log)
        process.terminate()
    live.check_end()


# -- requests -------------------------------------------------------------------------------------

# Three values in every message: of the request, of the one in its body, of the one behind it. They
# become numbers that are sent only once; their length stays.
OUTER, HIDDEN, NEXT = TOKENS = "@@@@@@1", "@@@@@@2", "@@@@@@3"
BEHIND = f"GET {update_path(INSIDE, NEXT)} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
IN_BODY = f"GET {update_path(INSIDE, HIDDEN)} HTTP/1.1\r\nHost: h\r\n\r\n"
JSON = json.dumps({"mac": INSIDE.mac, "api_key": INSIDE.key,
                   "readings": [{"field": 1, "data": OUTER}]})
TARGETS = (
    update_path(INSIDE, OUTER), update_path(INSIDE, OUTER, more="?x=1"),
    update_path(INSIDE, OUTER).replace("=1/", "=%31/"), "//h" + update_path(INSIDE, OUTER),
    f"/update/../update/mac={INSIDE.mac}/data={OUTER}/field=1/API_key={INSIDE.key}",
    f"/UPDATE/mac={urllib.parse.quote(INSIDE.mac)}/data={OUTER}/field=1/API_key={INSIDE.key}",
    "http://h" + update_path(INSIDE, OUTER), update_path(INSIDE, OUTER, more="#/data=9"),
    update_path(INSIDE, OUTER, more="/"), update_path(INSIDE, OUTER, more="%0d%0a"),
)
FORM = f"api_key={INSIDE.key}&field1={OUTER}"
THINGSPEAK = f"/update?{FORM}"
LENGTHS = (
    "Content-Length: {}", "content-length:{}", "Content-Length:\t{} ", "Content-Length: 0{}",
    "Content-Length: {0}\r\nContent-Length: {0}", "Content-Length: {0}, {0}", "X: y",
    "Content-Length: 4\r\nContent-Length: {}", "Content-Length: +{}", "Content-Length : {}",
    "Content-Length: {}\r\nTransfer-Encoding: chunked", "Content_Length: {}",
    "Transfer-Encoding: chunked\r\nContent-Length: 4", "Content-Length:\r\n {}")
CODINGS = ("chunked", "Chunked", " chunked ", "identity", "chunked, identity", "gzip, chunked",
           "chunked\r\nTransfer-Encoding: chunked", "xchunked", "\x0bchunked", "chunked;a=b")
OTHERS = (
    "Connection: keep-alive", "Connection: close", "Connection: Content-Length", "TE: a",
    "Expect: 100-continue", "Upgrade: h2c", "X-Real-IP: 1.2.3.4", "Host: other", "A: b\r\n c",
    "Cookie: a=b", "Range: bytes=0-1", f"X-API-Key: {INSIDE.key}", "no colon", "\xe4: \xe4",
    "Accept: text/html", "Trailer: Host")
BYTES = "\r\n \t:;,\0\x0b\x0c\x7f\x85\xa0/\\?#%.0+-_aA1"


def chunked(text):
    return f"{len(text):x}\r\n{text}\r\n0\r\n\r\n"


@st.composite
def plain(draw):
    """A request that can be understood in one way only, and what it stores."""
    ends = draw(st.sampled_from(["", "Connection: close\r\n"]))
    line, body, stored = draw(st.sampled_from([
        (f"GET {TARGETS[0]}", "", [OUTER]), (f"GET {TARGETS[1]}", "", [OUTER]),
        (f"GET {TARGETS[2]}", "", [OUTER]), ("GET /healthz", "", []), ("HEAD /", "", []),
        (f"GET {THINGSPEAK}", "", [OUTER]), ("POST /update", FORM, [OUTER]),
        ("POST /update", JSON, [OUTER]), ("POST /update", IN_BODY, []), ("POST /", IN_BODY, []),
        ("DELETE /healthz", IN_BODY, []), ("OPTIONS /", IN_BODY, []),
        (f"PUT {TARGETS[0]}", IN_BODY, [])]))
    length = f"Content-Length: {len(body)}\r\n" if body else ""
    others = draw(st.lists(st.sampled_from(["Accept: */*\r\n", "Cookie: a=b\r\n", "X:\r\n"])))
    text = f"{line} HTTP/1.1\r\nHost: h\r\n{''.join(others)}{length}{ends}\r\n{body}"
    return text + BEHIND, stored + ([] if ends else [NEXT])


@st.composite
def spoilt(draw):
    """A request of doubtful parts, of which some bytes may be exchanged, too."""
    end = draw(st.sampled_from(["\r\n"] * 9 + ["\n"]))
    headers = ["Host: h", *draw(st.lists(st.sampled_from(OTHERS), max_size=2))]
    method, target, body = draw(st.sampled_from([
        ("GET", TARGETS[0], ""), ("GET", TARGETS[1], ""), ("GET", TARGETS[0], IN_BODY),
        ("POST", "/update", JSON), ("POST", "/update", JSON), ("POST", "/update", IN_BODY),
        ("OPTIONS", "/", IN_BODY), ("HEAD", "/healthz", IN_BODY), ("get", TARGETS[0], ""),
        ("GET", THINGSPEAK, ""), ("GET", THINGSPEAK, IN_BODY), ("POST", "/update", FORM),
        *(("GET", target, "") for target in TARGETS[2:])]))
    if body and draw(st.booleans()):
        length = len(body) + draw(st.sampled_from([0, 0, 0, 0, -1, 1, -len(body)]))
        headers.append(draw(st.sampled_from(LENGTHS * 2 + LENGTHS[:2] * 9)).format(length))
    elif body:
        headers.append(f"Transfer-Encoding: {draw(st.sampled_from(CODINGS[:1] * 5 + CODINGS))}")
        body = chunked(body)
    version = draw(st.sampled_from(["HTTP/1.1"] * 9 + ["HTTP/1.0", "HTTP/1.2", ""]))
    text = end.join([f"{method} {target} {version}".strip(), *draw(st.permutations(headers)), end])
    for _ in range(draw(st.integers(0, 2))):
        place = draw(st.integers(0, len(text)))
        cut = draw(st.integers(0, 1))
        changed = text[:place] + draw(st.sampled_from(("", *BYTES))) + text[place + cut:]
        text = changed if changed.count(OUTER) == text.count(OUTER) else text
    return text + body + BEHIND


# -- sending --------------------------------------------------------------------------------------


class Sent(NamedTuple):
    values: dict                    # number: token
    raw: bytes


NUMBERS = itertools.count(1_000_000)


def number(text):
    """The message with numbers that no other has."""
    values = {}
    for token in TOKENS:
        value = next(NUMBERS)
        values[value], text = token, text.replace(token, str(value))
    return Sent(values, text.encode("latin-1"))


async def exchange(connecting, raw):
    """Send, and take what comes until the other side closes, or waits as we do."""
    reader, writer = await connecting
    answer = b""
    with contextlib.suppress(ConnectionError, asyncio.TimeoutError):
        writer.write(raw)
        while piece := await asyncio.wait_for(reader.read(65536), QUIET):
            answer += piece
    writer.transport.abort()
    return answer


def ask_both(nginx, messages):
    """Each message to the server alone and through nginx, all at once; what each has stored."""
    alone, proxied = ([number(text) for text in messages] for _ in range(2))

    async def ask():
        await asyncio.gather(
            *(exchange(asyncio.open_connection("127.0.0.1", nginx.live.port), sent.raw)
              for sent in alone),
            *(exchange(asyncio.open_unix_connection(nginx.socket), sent.raw) for sent in proxied))
    asyncio.run(ask())
    rows = sorted(rows_of(nginx.live.db), key=lambda row: row[5])       # by entry
    stored = [int(found[0]) for row in rows if (found := re.search(r"\d{7}", str(row[4])))]
    check_log(nginx, {value for sent in proxied for value in sent.values}, stored)
    return [[[sent.values[value] for value in stored if value in sent.values] for sent in pair]
            for pair in zip(alone, proxied, strict=True)]


def check_log(nginx, values, stored):
    """What is stored of values is what nginx says that it asked for, each in a request."""
    missing = collections.Counter(value for value in stored if value in values)

    def is_all_seen():
        for line in nginx.log:
            entry = json.loads(line)
            text = entry["target"] if entry["method"] == "GET" else entry["body"]
            if entry["upstream"] == "200" and not text.startswith("GET "):
                missing.subtract(map(int, re.findall(r"\d{7}", text)))
        return not +missing
    with contextlib.suppress(AssertionError):
        wait_for(is_all_seen)
    assert not +missing, "stored without having been asked for"


# -- agreeing -------------------------------------------------------------------------------------

# A batch is not made smaller when it fails: what disagrees is picked out of it as it is.
always_the_same = functools.partial(
    settings, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.large_base_example])


@always_the_same(max_examples=10)
@given(messages=st.lists(plain(), min_size=8, max_size=24))
def test_a_clear_request_is_the_same_alone_and_through_nginx(nginx, messages):
    found = ask_both(nginx, [text for text, _ in messages])
    assert [(text, expected, pair) for (text, expected), pair in zip(
        messages, found, strict=True) if pair != [expected, expected]] == []


def test_a_spoilt_request_is_never_understood_in_two_ways(nginx):
    """Alone and through nginx the same is stored, up to where one of them refuses to go on."""
    count = collections.Counter()

    @always_the_same(max_examples=150)
    @given(messages=st.lists(spoilt(), min_size=8, max_size=24))
    def agree(messages):
        found = ask_both(nginx, messages)
        assert [(text, pair) for text, pair in zip(messages, found, strict=True)
                      if any(one != other for one, other in zip(*pair, strict=False))] == []
        count.update((bool(alone), bool(proxied)) for alone, proxied in found)
        count["hidden"] += sum(HIDDEN in alone for alone, _ in found)
    agree()
    print(count)
    # Of nothing that is refused by both, and of nothing that is not spoilt, much would be learned.
    assert min(count[True, True], count[False, True], count[False, False]) >= 50, count
