"""Is the answer the same with and without restarts, minute by minute of real weather?"""
import bisect
import csv
import random
from datetime import datetime

import pytest
from harness import finish
from house import House
from tools import ROOT

from iotserver import DAY, MINUTE, keep_courses

WEEKS = ROOT / "tests/data/falkensee_two_weeks.csv"
ROOMS = ("inside", "inside"), ("outside", "outside")


def weather(column, days):
    with WEEKS.open(newline="") as file:
        found = [(int(datetime.fromisoformat(row["time"]).timestamp() * 1000), float(row[column]))
                 for row in csv.DictReader(file) if row[column]]
    return [row for row in found if row[0] < found[0][0] + days * DAY]


def record(path, sides, restarts):
    """The verdicts of all minutes of two weeks, by a server that sends what has come by then."""
    start = min(side[0][0] for side in sides)
    seen, sent = [], [0, 0]
    house = House(path, *ROOMS)
    try:
        for now in range(start, max(side[-1][0] for side in sides), MINUTE):
            house.time = now / 1000
            for number, side in enumerate(sides):
                end = bisect.bisect(side, (now + 1,))
                for ms, value in side[sent[number]:end]:
                    writer = house.writer
                    writer.add_entry(writer.by_mac[f"mac-{number}"], ms, {1: value}, now)
                    house.server.turn.end()
                sent[number] = end
            if now in restarts:
                house.close()
                house = House(path)
                house.time = now / 1000
            verdict = finish(house.server.board.look())[0].verdict
            seen.append((verdict.state, verdict.since, verdict.inside, verdict.outside))
            finish(keep_courses(house.server))
    finally:
        house.close()
    return seen


@pytest.mark.slow
@pytest.mark.untraced
@pytest.mark.parametrize("hourly", [False, True])
def test_fifty_restarts_change_no_answer(tmp_path, hourly):
    mix = random.Random(7)
    sides = [weather("inside_c", 14), weather("outside_c", 14)]
    if hourly:
        sides[1] = sides[1][::20]
    start, end = sides[0][0][0], sides[0][-1][0]
    restarts = set(range(start, end, (end - start) // 50 // MINUTE * MINUTE))
    restarts = {start + (at - start) // MINUTE * MINUTE + mix.randrange(9) * MINUTE
                for at in restarts}
    seen = record(tmp_path / "a.db", sides, set())
    assert len({(state, since) for state, since, *_ in seen}) >= 6
    assert record(tmp_path / "b.db", sides, restarts) == seen
