"""Many consoles, and one on a bad line: what was answered is stored, and nothing by half."""
import asyncio
import collections
import contextlib
import random
import socket
import time
from datetime import UTC, datetime

import pytest
from harness import add_console, problems_of, rows_of

import iotserver

FORM = ("PASSKEY=50E4A2B2&stationtype=GW2000B_V2.1.8&runtime=1755701&dateutc={when}&tempinf=68.90"
        "&humidityin=42&baromrelin=29.244&baromabsin=29.323&tempf=39.74&humidity=99&winddir=60"
        "&windspeedmph=1.34&windgustmph=2.24&solarradiation=0.00&uv=0&rainratein=0.000&temp1f=70"
        "&wh65batt=0&freq=915M&model=GW2000B")
READINGS = 13                   # in one of these, of three stations
HOUR_AGO = int(time.time()) - 3700


def raw_report(key, ms=None):
    at = ms and datetime.fromtimestamp(ms / 1000, UTC)
    when = f"{at:%Y-%m-%d+%H:%M:%S}" if at else "now"
    body = FORM.format(when=when).encode()
    return (f"POST /data/report/{key} HTTP/1.1\r\nHOST: 192.0.2.7\r\nConnection: Close\r\n"
            f"Content-Length: {len(body)}\r\n\r\n").encode() + body


def register(path, count):
    with contextlib.closing(iotserver.Writer(path)) as writer:
        for n in range(count):
            add_console(writer, f"c{n} outside", f"c{n}", iotserver.hash_key(f"KEY{n}").hex(), 1)


async def send(port, raw):
    """The answer to a request on a connection of its own, and how long it took."""
    began = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(raw)
    answer = await asyncio.wait_for(reader.read(), 30)
    writer.close()
    return answer, time.monotonic() - began


@pytest.mark.slow
@pytest.mark.untraced
def test_fifty_consoles_at_eight_seconds_among_many_at_a_minute(
        database, serve, record_property):
    """Time passes eight times as fast: 50 a second of the quick ones, and 50 of others."""
    register(database, 200)
    live = serve()

    async def console(number, interval, times):
        await asyncio.sleep(interval * number / 200)        # they do not send at once
        return [await sleep_after(send(live.port, raw_report(f"KEY{number}")), interval)
                for _ in range(times)]

    async def sleep_after(work, interval):
        begun = time.monotonic()
        done = await work
        await asyncio.sleep(max(0, interval - (time.monotonic() - begun)))
        return done

    async def all_of_them():
        return await asyncio.gather(*(console(n, 1, 5) for n in range(50)),
                                    *(console(n, 3, 1) for n in range(50, 200)))

    answers = [answer for some in asyncio.run(all_of_them()) for answer in some]
    assert len(answers) == 50 * 5 + 150
    assert {answer[9:12] for answer, _ in answers} == {b"200"}
    assert all(answer.endswith(b"\r\n\r\nsuccess") for answer, _ in answers)
    stored = collections.Counter(row[2].partition("-")[0] for row in rows_of(database))
    assert {stored[f"c{n}"] for n in range(50)} == {5 * READINGS}
    assert {stored[f"c{n}"] for n in range(50, 200)} == {READINGS}
    times = sorted(seconds for _, seconds in answers)
    record_property("a console's answer, p99", f"{times[len(times) * 99 // 100] * 1000:.0f} ms")


def try_to_send(port, raw, chance):
    """What a console hears of one report on a bad line: all of it may be lost anywhere."""
    fate = chance.random()
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 20) as line:
        if fate < 0.2:                          # the line breaks within the request
            line.sendall(raw[:chance.randrange(len(raw))])
            return b""
        line.sendall(raw)
        if fate < 0.35:                         # or before the answer
            return b""
        return b"".join(iter(lambda: line.recv(4096), b""))
    return b""


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_an_hour_on_a_bad_line_loses_nothing_that_was_answered(database, serve, seed):
    """A report in 8 s, told by its time; the server is killed now and then, too."""
    register(database, 1)
    chance, live, answered, sent = random.Random(seed), serve("--rate-limit", "0"), set(), set()
    deaths = {chance.randrange(450) for _ in range(3)}
    for number in range(450):
        ms = (HOUR_AGO + 8 * number) * 1000
        sent.add(ms)
        if b"success" in try_to_send(live.port, raw_report("KEY0", ms), chance):
            answered.add(ms)
        if number in deaths:
            live.kill()
            live = serve("--rate-limit", "0")
    assert live.stop() == 0
    stored = collections.Counter(row[0] for row in rows_of(database))
    assert len(answered) > 200
    assert answered <= set(stored) <= sent
    assert set(stored.values()) == {READINGS}
    assert {row[1] for row in rows_of(database)} == {"c0 outside", "c0 inside", "c0 ch1"}
    assert problems_of(database) == []
