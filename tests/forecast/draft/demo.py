"""For section 12 of iotserver.py: stands for "the demonstration" there. Above the rule are names
it has already. main() calls fill_demo(), and gives the house that it returns to the job:
server.jobs += ((5, functools.partial(play_demo, house)),)"""
import math
import secrets
from typing import Any, NamedTuple

MINUTE = 60_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR
Writer = Any
Server = Any


def hash_key(key: str) -> bytes:
    return key.encode()


class Reading(NamedTuple):
    field: int
    value: float
    age: int
    seq: str | None


# -- the demonstration ----------------------------------------------------------------------------

DEMO_STATIONS = (("inside", "5c:cf:7f:3b:0d:e8"), ("outside", "6c:rf:7f:2b:0e:g8"))
DEMO_SUNRISE = 13 * HOUR        # UTC: at six where the clock says UTC-7
DEMO_DAYLIGHT = 14.0            # hours
DEMO_STEP = 10 * MINUTE         # between two readings of its history


def wander(ms: int, period: int) -> float:
    """From -1 to 1: a new value after each period, smooth between; always the same at a time."""
    i, rest = divmod(ms, period)
    before, after = (math.sin(12.9898 * (j + period / HOUR)) * 43_758.5453 % 2 - 1
                     for j in (i, i + 1))
    return before + (after - before) * (1 - math.cos(math.pi * rest / period)) / 2


def simulate_outside(ms: int, midsummer: int) -> tuple[float, float]:
    """(°C, how strong the sun is, from 0 to 1): seasons, warm and cool spells, cloudy days, and
    days that warm like a sine and cool like an exponential (Parton and Logan 1981)."""
    year = math.cos((ms - midsummer) / (365.25 * DAY) * math.tau)
    clouds = min(1.0, max(0.0, 0.4 + 0.8 * wander(ms, 31 * HOUR)))
    hour = (ms - DEMO_SUNRISE) % DAY / HOUR
    is_day = hour < DEMO_DAYLIGHT
    shape = math.sin(math.pi * min(hour, DEMO_DAYLIGHT) / (DEMO_DAYLIGHT + 3.7))
    if not is_day:
        night = (hour - DEMO_DAYLIGHT) / (24 - DEMO_DAYLIGHT)
        shape *= (math.exp(-2.2 * night) - math.exp(-2.2)) / (1 - math.exp(-2.2))
    sun = (1 - 0.8 * clouds) * math.sin(math.pi * hour / DEMO_DAYLIGHT) if is_day else 0.0
    spells = 3.5 * wander(ms, 6 * DAY) + 1.5 * wander(ms, 41 * HOUR)
    noise = (0.1 + 0.7 * sun) * wander(ms, 47 * MINUTE) + 0.15 * wander(ms, 13 * MINUTE)
    return (12.5 + 9 * year + spells + noise
            + (6 + 5 * year) * (1 - 0.6 * clouds) * (shape - 0.35)), sun


class DemoHouse:
    """A room that follows the weather: its walls, the sun, windows that are open when it cools."""

    def __init__(self, start: int, midsummer: int):
        self.at, self.midsummer, self.inside = start, midsummer, 21.0

    def advance(self, now: int) -> tuple[float, float]:
        """What the two stations measure then, in the order of DEMO_STATIONS."""
        outside, sun = simulate_outside(now, self.midsummer)
        is_open = self.inside > 22.5 and outside < self.inside - 0.5 and sun < 0.1
        share = 1 - math.exp((self.at - now) / ((8 if is_open else 40) * HOUR))
        self.inside = max(20.5, self.inside + (outside + 1.5 + 12 * sun - self.inside) * share)
        self.at = now
        return round(self.inside + 0.1 * wander(now, 7 * MINUTE), 1), round(outside, 1)


def fill_demo(writer: Writer, now: int) -> DemoHouse:
    """Two stations and a year of their readings. Now is midsummer."""
    house = DemoHouse(now - 365 * DAY, now)
    times = range(now - 365 * DAY, now, DEMO_STEP)
    for (name, mac), values in zip(DEMO_STATIONS, zip(*map(house.advance, times), strict=True),
                                   strict=True):
        writer.add_station(name, mac, name, hash_key(secrets.token_hex()).hex(), now)
        writer.import_rows([(ms, name, mac, 1, value, None)
                            for ms, value in zip(times, values, strict=True)], now)
    return house


def play_demo(house: DemoHouse, server: Server) -> None:
    """The simulated stations send: through the same store as real ones."""
    now = server.now()
    for (_, mac), value in zip(DEMO_STATIONS, house.advance(now), strict=True):
        server.writer.add(server.writer.by_mac[mac], Reading(1, value, 0, None), now)
    server.turn.end()
