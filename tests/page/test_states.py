"""Random states of a house: headline, rows, cards, chart, JSON and text agree in each."""
import random
import re

import pytest

import iotserver as iot
from iotserver import DAY, HOUR, MINUTE

HOUSES, STATES = 50, 20         # in each house so many states, weeks apart
ROW = re.compile(r"((?:room|garden) \d) (?:(open|closed|comfortable|cold|no answer) )?"
                 r"(?:humidity \d+% )?(?:(–)|(-?[\d.]+) °([CF]))")
HEADLINES = {"open": {"Open the windows:"}, "close": {"Keep the windows closed:"},
             "unknown": {"No answer:", "No answer yet:"},
             "comfortable": {"Comfortable inside:", "Cold inside:"}}
SAID = {"cooler": "(?:Cooler outside |It will probably stay warmer )",
        "warmer": "(?:Warmer outside |Leave them open |It will probably stay cooler )"}
PILLS = {"open": "open", "close": "closed", "unknown": "no answer"}


def sends(rng):
    """Readings of a station, minutes from now and °C: each minute or hour, some silent, some with
    readings that are doubted or impossible, some with hardly any."""
    every, level = rng.choice([1, 1, 5, 15, 60]), rng.uniform(12, 36)
    end = -rng.choice([0, 0, 0, rng.randrange(every), rng.randrange(400)])
    minutes = range(end - every * rng.choice([0, 1, 4, 30]), end + 1, every)
    slope = rng.uniform(-2, 2) / 60
    values = [level + slope * (minute - end) + rng.gauss(0, 0.1) for minute in minutes]
    for _ in range(rng.choice([0, 0, 0, 1, 2])):
        values[-rng.randint(1, min(3, len(values)))] = rng.choice(
            [85, -127, 150, level + rng.uniform(-12, 12)])
    return minutes, values


def change(home, rng, names):
    """The next state of a house: weeks later, with other readings, humidity and offsets."""
    home.time += 21 * DAY / 1000
    base = sends(rng)
    for name in names:
        readings = sends(rng) if rng.random() < 0.7 else base   # equal ones: about even
        if rng.random() < 0.95:
            home.store(name, *readings)
        if rng.random() < 0.4:
            home.store(name, [-1], rng.uniform(20, 99), field=2)
        offset = rng.choice([0.0, 0.0, round(rng.uniform(-2, 2), 1)])
        home.writer.edit_station(name, None, None, None, offset)
    home.server.board.expires = 0


def put_forecasts(home, rng):
    """Any forecast that a room could have, where the server puts its own; some do not fit."""
    now, board = round(home.time * 1000), home.server.board
    series = {s.name: home.reader.series(s.id).get(1) for s in home.reader.stations()}
    for pair in ((a, b) for a in series.values() for b in series.values() if a and b):
        at, curve = now + rng.randrange(9 * HOUR), tuple(rng.uniform(15, 30) for _ in range(48))
        times = (at, at - HOUR, at + HOUR) if rng.random() < 0.8 else (None, None, None)
        board.forecasts[pair] = iot.Forecast(rng.choice(["cooler", "warmer"]), *times, 0.8, 9,
                                             curve, curve, now - rng.randrange(20) * MINUTE)
    board.expires = 0


def check_sentence(reason, inside, outside):
    """Numbers and directions of a reason are those of the two large numbers."""
    difference = round(inside - outside, 1)
    if said := re.search(r"([\d.]+) °[CF] (cooler|colder|warmer)", reason):
        assert float(said[1]) == abs(difference)
        assert (said[2] == "warmer") == (difference < 0)
    if "about as warm" in reason:
        assert difference == 0
    if "hardly warmer" in reason:
        assert -1.8 <= difference <= 0


def check_room(verdict, line, rows, unit):
    """JSON, text and numbers of one room."""
    headline, reason = re.fullmatch(rf"{verdict['station']}: ([^:]+:) (.*)", line).groups()
    assert headline in HEADLINES[verdict["state"]]
    pill, number = rows[verdict["station"]]
    if verdict["state"] == "unknown":
        assert [verdict[part] for part in ("inside", "outside", "difference", "forecast")] == (
            [None] * 4)
        assert pill in {None, "no answer"}
        return
    inside, outside = (round(iot.in_unit(verdict[side], unit), 1) for side in
                       ("inside", "outside"))
    assert number == inside
    assert outside in [value for name, (_, value) in rows.items() if name.startswith("garden")]
    assert verdict["difference"] == pytest.approx(verdict["inside"] - verdict["outside"], abs=.006)
    check_sentence(reason, inside, outside)
    stays_closed = "eep the windows closed" in headline + reason
    if pill:
        assert pill == PILLS.get(verdict["state"], "closed" if stays_closed else "cold" if
                                 headline == "Cold inside:" else "comfortable")
    if forecast := verdict["forecast"]:
        assert forecast["event"] == ("cooler" if verdict["difference"] < 0 else "warmer")
        assert bool(re.search(SAID[forecast["event"]], line)) == (headline != "Cold inside:")
    else:
        assert not re.search("|".join(SAID.values()), line)


def check_chart(page, rows):
    """The chart's ends are the large numbers, unless a note says what came last instead."""
    ends = dict(re.findall(r"(room \d|garden \d): from [^,]*, last (-?[\d.]+)",
                           "".join(a["aria-label"] for a, _ in page.all("svg", role="img")[:1])))
    notes = {text.split()[0] + " " + text.split()[1] for _, text in page.all("li")
             if "came last" in text}
    for name, (_, number) in rows.items():
        if name in ends and number is not None and name not in notes:
            assert float(ends[name]) == number, name


def check_state(home, unit):
    verdicts = home.get("/api/verdict").json["verdicts"]
    lines = home.get("/verdict.txt").text.splitlines()
    page = home.page()
    rows = {}
    for _, text in page.all("li"):
        if (row := ROW.match(text)) and row[1] not in rows:
            rows[row[1]] = row[2], None if row[3] else float(row[4])
            assert row[5] in {None, unit}
    assert len(lines) == len(verdicts) > 0
    assert {name for name in rows if name.startswith("room")} == {
        verdict["station"] for verdict in verdicts}
    assert page.all("main")[0][0]["data-state"].split() == [v["state"] for v in verdicts]
    for verdict, line in zip(verdicts, lines, strict=True):
        check_room(verdict, line, rows, unit)
    until = "".join(text for _, text in page.all("summary")[:1]
                    if re.match("|".join(SAID.values()), text))
    headline = page.verdict.removeprefix(f"{verdicts[0]['station']} ")
    assert lines[0].lower().startswith(
        f"{verdicts[0]['station']}: {headline}".lower()), (lines[0], headline)
    assert until == "".join(re.findall(f"(?:{'|'.join(SAID.values())}).*", lines[0])).replace(
        " Times are in UTC.", "")
    check_chart(page, rows)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(HOUSES))
def test_a_page_never_contradicts_itself(house, seed):
    rng = random.Random(seed)
    names = [(f"room {i}", "inside") for i in range(rng.choice([1, 1, 2, 4]))]
    names += [(f"garden {i}", "outside") for i in range(rng.choice([0, 1, 1, 1, 2]))]
    rng.shuffle(names)
    unit = rng.choice("CF")
    home = house(*names, units=unit)
    for state in range(STATES):
        change(home, rng, [name for name, _ in names])
        put_forecasts(home, rng)
        try:
            check_state(home, unit)
        except AssertionError as error:
            error.add_note(f"state {state} of house {seed}")
            raise
