"""What the process remembers is bounded in bytes, whoever fills it, and with whatever.

The memories are found, not listed: one that is new and that nobody knows how to fill fails here.
"""
import contextlib
import gc
import inspect
import tracemalloc

import pytest
from harness import INSIDE, OUTSIDE, basic, bulk, request, update_path

import iotserver

ALL = 25_000_000                # bytes of all of them at once: a tenth of what the unit may have
LONG = 240_000                  # characters, as long as they fit into a body
HEAD = 1_900                    # bytes of a head that is remembered


def find_memories():
    """All functions of the module that remember what they were asked."""
    return {name: value for name, value in vars(iotserver).items()
            if hasattr(value, "cache_parameters")}


def path(n, data="1", mac=INSIDE.mac):
    return f"/update/API_key=no{n}/mac={mac}/field=1/data={data}"


def form(n, **parts):
    return request("POST", "/update", "&".join(
        f"{name}={value}" for name, value in {"api_key": n, **parts}.items()).encode())


# Requests that fill a memory: number n of the kind, made long by size characters.
FILL = {
    "parse_number": lambda n, size: form(n, field1=f"{n}." + "1" * min(size, 25)),
    "parse_number, long": lambda n, size: form(n, field1=f"{n}" + "1" * min(size, 16_000)),
    "parse_mac": lambda n, size: request("GET", path(n, mac=f"m{n}".ljust(32, "m")[:32])),
    "parse_mac, long": lambda n, size: request("GET", path(n, mac=f"m{n}" + "m" * size)[:8000]),
    "parse_field": lambda n, size: request("GET", path(n).replace("field=1", f"field={n}")),
    "hash_key": lambda n, size: form(n, field1="1", x="") if size < 100 else request(
        "POST", "/update", bulk(INSIDE, (1, 1)).replace(
            INSIDE.key.encode(), f"{n}".encode() + "😀".encode() * (size // 4))),
    "hash_pair": lambda n, size: request("GET", update_path(OUTSIDE, n), X_Real_IP=f"{n}" + (
        "1" * min(size, 15_000))),
    "networks": lambda n, size: request("GET", path(n), X_Real_IP=f"2001:db8:{n:x}::1"),
    "networks, long": lambda n, size: request("GET", path(n), X_Real_IP=f"{n}" + "1" * min(
        size, 15_000)),
    "languages": lambda n, size: request("GET", "/", Accept_Language=f"de-{n}" + "x" * min(
        size, 15_000)),
    "find_locale": lambda n, size: request(
        "GET", "/", Accept_Language=f"de-{n}" + "x" * min(size, 15_000),
        Cookie=f"tz=Europe/Berlin; a={n}" + "x" * min(size, 15_000)),
    "accepts_gzip": lambda n, size: request("GET", "/", Accept_Encoding=f"gzip, {n}" + "x" * (
        min(size, 15_000))),
    "heads": lambda n, size: request("GET", "/healthz", **{
        f"A{n}_{m}": "x" for m in range(60)}, X=("x" * min(size, HEAD - 800))),
    "heads, long": lambda n, size: request("GET", f"/healthz?{n}", X="x" * HEAD),
    "render_head": lambda n, size: request("GET", f"/channels/1/feeds.json?callback=f{n}"),
    "heads of updates": lambda n, size: request("GET", update_path(OUTSIDE, n), A=f"{n}" + "x" * (
        min(size, HEAD - 200))),
    "guesses": lambda n, size: request("GET", path(n), X_Real_IP=f"10.{n >> 8}.{n & 255}.1"),
    "passwords": lambda n, size: request("GET", "/api/stations", Authorization=basic(
        f"{n}" + "p" * min(size, 10_000))),
    "pages": lambda n, size: request("GET", "/?range=" + ("24h", "7d", "30d", "1y")[n % 4],
                                     Cookie="tz=" + ZONES[n // 4 % len(ZONES)]),
    "events": lambda n, size: request("GET", f"/update?api_key={OUTSIDE.key}&field1=" + "é" * 120),
}
ZONES = [f"Etc/GMT{sign}{hours}" for sign in "+-" for hours in range(12)]
# Filled by the server itself, or by who starts it or writes its labels.
ELSEWHERE = {"csp_hash", "field_kind", "is_lan", "tls"}


def test_each_memory_is_filled_here():
    assert find_memories().keys() <= ELSEWHERE | {name.partition(",")[0] for name in FILL}
    for name, memory in find_memories().items():
        if inspect.signature(memory).parameters:        # else it is one value
            assert memory.cache_parameters()["maxsize"] <= 4096, name


@pytest.fixture
def filled(in_process):
    """A server behind the proxy, with a page."""
    server = in_process()
    server.peer = ""
    server.ask("POST", "/update", bulk(INSIDE, *[
        {"field": 1, "data": n % 40, "age": n * 90} for n in range(960)]))
    return server


def size_of(name):
    """So many that it would be full."""
    if name == "pages":
        return iotserver.MAX_PAGES + 16
    if name.endswith(", long"):         # not remembered at all
        return 200
    memory = find_memories().get(name.partition(",")[0])
    return min(4096, memory.cache_parameters()["maxsize"]) + 50 if memory else 1_000


def traced():
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


@pytest.mark.slow
@pytest.mark.untraced
def test_all_memories_together_are_small(filled, record_property):
    for memory in find_memories().values():
        memory.cache_clear()
    with contextlib.ExitStack() as stack:
        tracemalloc.start()
        stack.callback(tracemalloc.stop)
        before, most = traced(), {}
        for name, make in FILL.items():
            begun = traced()
            for n in range(size_of(name)):
                filled.exchange(make(n, LONG if n % 100 == 0 else HEAD))
            most[name] = traced() - begun
            assert traced() - before < ALL, most
        record_property("all memories", f"{(traced() - before) / 1e6:.1f} MB")
    sizes = {name: memory.cache_info().currsize for name, memory in find_memories().items()}
    assert all(sizes[name] for name in sizes.keys() - ELSEWHERE), sizes


MALFORMED = {
    "no Host": b"GET / HTTP/1.1\r\n\r\n", "no version": b"GET /\r\n\r\n",
    "two lengths": request("POST", "/update", b"x" * 10_000, Content_Length=2),
    "chunks": request("POST", "/update", Transfer_Encoding="chunked") + b"x" * 10_000,
    "no path": request("GET", "/nothing"), "wrong key": request("GET", path(0)),
    "wrong number": request("GET", path(0, data="x")),
    "wrong JSON": request("POST", "/update", b"{" * 10_000),
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_the_same_malformed_request_again_and_again_takes_no_memory(server, kind):
    """An error that is kept, and raised again, would gather all that it has seen."""
    for _ in range(200):
        server.exchange(MALFORMED[kind])
    with contextlib.ExitStack() as stack:
        tracemalloc.start()
        stack.callback(tracemalloc.stop)
        before = traced()
        for _ in range(1000):
            server.exchange(MALFORMED[kind])
        assert traced() - before < 200_000
