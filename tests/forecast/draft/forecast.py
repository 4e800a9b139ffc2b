"""For section 4 of iotserver.py, behind the verdict. Above the rule are names it has already."""
import bisect
import collections
import heapq
import math
import operator
import statistics
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

MINUTE = 60_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR
Sample = tuple[int, float]      # a time and a value
VERDICT_WINDOW = 40 * HOUR


START: object = None


class Verdict(NamedTuple):
    """A stand-in."""
    state: str = "close"
    difference: float | None = None
    course: object = START


def judge(inside: Sequence[Sample], outside: Sequence[Sample], now: int, comfort: float,
          course: object = START) -> Verdict:
    """A stand-in."""
    return Verdict()


# -- the forecast ---------------------------------------------------------------------------------
#
# Every past day is one possible tonight: how both temperatures moved from this time of day on, as
# they would have moved had that day been like today, which a regression tells. Each such night
# crosses at some time or never. Quantiles of these times are the answer, and how good answers have
# been sets the width of its interval. Days are whole days of UTC, which no change of clocks moves.

Pair = tuple[list[float], list[float]]      # of outside, of inside
QUARTER = 15 * MINUTE
QUARTERS = DAY // QUARTER       # of a day
HORIZON = 12 * HOUR             # behind which nothing is said
HOLD = 3                        # quarters more that a crossing has to last: a cloud is none
LEADS = [quarters / 4 for quarters in range(1, HORIZON // QUARTER + HOLD + 1)]    # hours ahead
PAST_DAYS = 45                  # as good as 60, and a quarter quicker
LOOK_BACK = 12 * HOUR // QUARTER    # for the lowest of the last night
KEPT = PAST_DAYS * QUARTERS + LOOK_BACK + 1     # quarters that a question looks at
INSIDE_HOLE = 12 * HOUR // QUARTER  # is bridged: many stations are silent while nothing moves
OUTSIDE_HOLE = 4 * HOUR // QUARTER
GLITCH = 3.0                    # °C from the median of three readings: no weather does that
FEWEST_DAYS = 1                 # of history: from so few, made-up nights make a wide interval
MEMORY = 12                     # days, behind which a day counts for a third
RIDGE = 10.0                    # days: so much speaks for the slopes below before any day is seen
SLOPES = ((-0.16, -0.18, 0.0), (-0.015, 0.0, 0.01))     # °C per hour of the lead and unit of each
                                # trait, of outside and inside: on other houses they were such
SLOPE_HOURS = 8                 # until when they grow with the lead
INSIDE_SHARE = 0.5              # of how far off inside was: the two go wrong together
# Nights that are made up keep a short history honest: (°C off after an hour, weight in days).
MADE_UP = ((-2.0, 0.5), (0.0, 1.0), (2.0, 0.5))
TAIL = 0.1                      # of the nights lie before the interval, and as many behind it
LEARNED_DAYS = 60               # of earlier answers that set the width of the next one
FIRST_WIDTH, LEAST_WIDTH, MOST_WIDTH = 1.3, 0.4, 3.0
LEARNING_RATE = 0.15
NEVER = 99.0                    # a score: of what has not come at all
WIDEST_MORNING = 3 * HOUR       # no history knows the clouds: a useful interval, or nothing
OUT_OF_REACH = 2.0              # °C above all that outside was lately: it gets no warmer than that
UNLIKELY, SURE_DAYS = 0.3, 30   # "not tonight" takes so small a chance and so many days


class Forecast(NamedTuple):
    """When outside gets cooler or warmer than inside: the median, the 80 % interval, the chance.

    Without at it is not more likely than not; without end the interval is open. The curves are
    what is expected, a value for each quarter of an hour from the next on.
    """
    event: str                  # cooler, warmer
    at: int | None
    start: int | None
    end: int | None
    chance: float               # that it happens within HORIZON
    days: int                   # of history that it rests on
    inside: tuple[float, ...]
    outside: tuple[float, ...]


class Outcome(NamedTuple):
    """What became of the forecast of a full hour."""
    asked: int
    event: str
    score: float                # how far off, in halves of the interval; above 1: missed
    error: int                  # ms from the median to the truth
    baseline: int               # the same, had yesterday's curves been shifted to today's values


class Quarters:
    """A series as a number for each quarter of an hour: the newest reading at its end.

    Fed in order of time. A hole becomes a straight line as soon as its end is known, and until
    then the last value holds; one longer than the bridge is nan.
    """

    def __init__(self, bridge: int):
        self.bridge = bridge
        self.end = -1                               # the newest quarter, counted from 1970
        self.values: list[float] = []
        self.last: collections.deque[float] = collections.deque(maxlen=3)     # within it

    def add(self, ms: int, value: float) -> None:
        end = -(-ms // QUARTER)
        if end < self.end:
            return                                  # late: seen when all is fed anew
        if end > self.end:
            if self.values:
                self.values += self._fill(min(end - self.end - 1, KEPT), value)
            self.values.append(value)
            self.end = end
            self.last.clear()
            if len(self.values) > 2 * KEPT:
                del self.values[:-KEPT]
        self.last.append(value)
        middle = statistics.median(self.last)
        self.values[-1] = middle if abs(value - middle) > GLITCH else value

    def _fill(self, missing: int, value: float) -> list[float]:
        if missing > self.bridge:
            return [math.nan] * missing
        rise = (value - self.values[-1]) / (missing + 1)
        return [self.values[-1] + rise * i for i in range(1, missing + 1)]

    def until(self, end: int) -> list[float]:
        """The KEPT quarters up to this one, as they were known then."""
        silent = end - self.end
        values = self.values[-KEPT + min(silent, 0):len(self.values) + min(silent, 0)]
        if silent > 0 and values:
            values += [values[-1] if silent <= self.bridge else math.nan] * min(silent, KEPT)
        return [math.nan] * (KEPT - len(values)) + values[-KEPT:]


def dot(a: Iterable[float], b: Iterable[float]) -> float:
    return sum(map(operator.mul, a, b), 0.0)


def solve(rows: list[list[float]]) -> list[list[float]]:
    """Gauss and Jordan: what stands right of a square matrix, times its inverse.

    Without pivoting: the ridge on the diagonal keeps it from zero.
    """
    for i in range(len(rows)):
        pivot = [value / rows[i][i] for value in rows[i]]
        rows = [pivot if j == i else [a - row[i] * b for a, b in zip(row, pivot, strict=True)]
                for j, row in enumerate(rows)]
    return [row[len(rows):] for row in rows]


def adjust(moves: Sequence[list[float]], traits: Sequence[list[float]], weights: Sequence[float],
           prior: Sequence[float]) -> Iterator[tuple[float, list[float]]]:
    """For each lead: the mean of the days' moves, and these, as if each day had been like today.

    Ridge regression (Hoerl and Kennard 1970) of the moves on the traits, shrunk to the prior.
    """
    total = sum(weights)
    columns = [*zip(*traits, strict=True)]
    means = [dot(weights, column) / total for column in columns]
    centered = [[value - mean for value in column]
                for column, mean in zip(columns, means, strict=True)]
    weighted = [[*map(operator.mul, weights, column)] for column in centered]
    slopes = solve([[dot(row, column) + RIDGE * (i == j) for j, column in enumerate(centered)]
                    + row for i, row in enumerate(weighted)])
    rest = [slope - dot(prior, [dot(row, column) for column in centered])
            for slope, row in zip(prior, slopes, strict=True)]
    for hours, column in zip(LEADS, zip(*moves, strict=True), strict=True):
        a, b, c = (dot(row, column) + min(hours, SLOPE_HOURS) * slope
                   for row, slope in zip(slopes, rest, strict=True))
        alike = [move - a * x - b * y - c * z
                 for move, (x, y, z) in zip(column, traits, strict=True)]
        yield dot(weights, alike) / total, alike


def traits_at(outside: list[float], inside: list[float], i: int) -> Pair:
    """What tells one day from another at quarter i, in units that matter alike: of outside, how
    far above the last night's lowest, how warm, how long ago; of inside, its move in three hours,
    how warm, how much warmer outside."""
    lowest = min(value for value in outside[i - LOOK_BACK:i + 1:4] if not math.isnan(value))
    moved = inside[i] - inside[i - 12]
    return ([(outside[i] - lowest) / 8, outside[i] / 6, i / (12 * QUARTERS)],
            [0.0 if math.isnan(moved) else moved / 0.3, inside[i] / 2, outside[i] - inside[i]])


def past_days(outside: list[float], inside: list[float]) -> Iterator[tuple[float, Pair, Pair]]:
    """Of each past day that is known for 12 h from this time of day on: its weight, its moves
    since then for each lead, and in what it differed from today."""
    now = len(outside) - 1
    today = traits_at(outside, inside, now)
    for age in range(1, PAST_DAYS + 1):
        i = now - age * QUARTERS
        fall, rise = ([value - values[i] for value in values[i + 1:i + 1 + len(LEADS)]]
                      for values in (outside, inside))
        if math.isfinite(sum(fall) + sum(rise)):
            then = traits_at(outside, inside, i)
            yield math.exp(-age / MEMORY), (fall, rise), (
                [*map(operator.sub, then[0], today[0])], [*map(operator.sub, then[1], today[1])])


def find_crossing(gaps: Sequence[float]) -> float:
    """When gaps, below zero at first, rises above it and stays there for HOLD more; else inf."""
    for i in range(1, len(gaps) - HOLD):
        if gaps[i] > 0 and min(gaps[i:i + 1 + HOLD]) > 0:
            return i - gaps[i] / (gaps[i] - min(gaps[i - 1], 0.0))
    return math.inf


def quantile(weighted: Sequence[tuple[float, float]], share: float) -> float:
    """Of (value, weight) in order of value."""
    left = share * sum(weight for _, weight in weighted)
    return next((value for value, weight in weighted if (left := left - weight) <= 0),
                weighted[-1][0])


def foretell(outside: list[float], inside: list[float], now: int) -> Forecast | None:
    """From the quarters up to now; nothing that was learned is in it yet."""
    gap = inside[-1] - outside[-1]
    if not gap or not math.isfinite(gap):
        return None
    if inside[-1] - max(t for t in outside[::-4] if not math.isnan(t)) > OUT_OF_REACH:
        return None
    days = [*past_days(outside, inside)]
    if len(days) < FEWEST_DAYS:
        return None
    weights, moves, traits = zip(*days, strict=True)
    falls, rises = (adjust([move[side] for move in moves], [trait[side] for trait in traits],
                           weights, slopes) for side, slopes in enumerate(SLOPES))
    sign = 1 if gap < 0 else -1
    curves, gaps = [], []
    for hours, (rise, up), (fall, down) in zip(LEADS, rises, falls, strict=True):
        curves.append((inside[-1] + rise, outside[-1] + fall))
        base = gap + rise * (1 - INSIDE_SHARE)
        gaps.append([sign * (base + INSIDE_SHARE * a - b)
                     for a, b in zip(up, down, strict=True)]
                    + [sign * (gap + rise - fall) + off * math.sqrt(hours) for off, _ in MADE_UP])
    times = (find_crossing((sign * gap, *night)) for night in zip(*gaps, strict=True))
    nights = sorted((time if time <= HORIZON // QUARTER else math.inf, weight) for time, weight in
                    zip(times, (*weights, *(weight for _, weight in MADE_UP)), strict=True))
    start, at, end = (None if math.isinf(time := quantile(nights, share))
                      else now + round(time * QUARTER) for share in (TAIL, 0.5, 1 - TAIL))
    chance = sum(weight for time, weight in nights if math.isfinite(time)) / sum(
        weight for _, weight in nights)
    return Forecast("cooler" if sign > 0 else "warmer", at, start, end, chance, len(days),
                    *zip(*curves, strict=True))


def learn_width(scores: Iterable[float]) -> float:
    """The factor on the interval: adaptive conformal inference (Gibbs and Candes 2021)."""
    width = FIRST_WIDTH
    for score in scores:
        width *= math.exp(LEARNING_RATE * ((score > width) - 2 * TAIL))
        width = min(MOST_WIDTH, max(LEAST_WIDTH, width))
    return width


def widen(forecast: Forecast, now: int, width: float) -> Forecast:
    if forecast.at is None or forecast.start is None:
        return forecast
    end = forecast.end and round(forecast.at + width * (forecast.end - forecast.at))
    return forecast._replace(
        start=max(now, round(forecast.at - width * (forecast.at - forecast.start))),
        end=end if end and end <= now + HORIZON else None)


def is_worth_saying(forecast: Forecast) -> bool:
    """A warm evening always; a morning with a useful interval; "not tonight" when it is sure."""
    if forecast.at is None:
        return (forecast.event == "cooler" and forecast.chance < UNLIKELY
                and forecast.days >= SURE_DAYS)
    return forecast.event == "cooler" or (
        forecast.start is not None and forecast.end is not None
        and forecast.end - forecast.start <= WIDEST_MORNING)


def assess(forecast: Forecast, asked: int, gaps: Sequence[float], before: Sequence[float]
           ) -> Outcome | None:
    """What became of a forecast, before it was widened. gaps are how the quarters from asked on
    have been, above zero where what it foretold was true; before, those of the day before."""
    if forecast.at is None or forecast.start is None or not math.isfinite(sum(gaps)):
        return None
    crossing, shifted = (asked + find_crossing(night) * QUARTER for night in (
        gaps, [gap - before[0] + gaps[0] for gap in before]))
    came = min(crossing, asked + HORIZON)
    error = abs(came - forecast.at)
    end = math.inf if forecast.end is None else forecast.end
    half = forecast.at - forecast.start if came < forecast.at else end - forecast.at
    is_lost = came < crossing and end < math.inf
    score = NEVER if is_lost else min(NEVER, error / max(half, MINUTE))
    return Outcome(asked, forecast.event, score, round(error),
                   round(abs(came - min(shifted, asked + HORIZON))))


class Forecaster:
    """A room and its outside: their quarters, what was said at full hours and what became of it.

    It learns for each hour of the day by itself, from what is a day old and no older than
    LEARNED_DAYS. So its answers follow from the readings alone, fed as they come or all at once.
    """

    def __init__(self, outcomes: Iterable[Outcome] = ()):
        self.inside, self.outside = Quarters(INSIDE_HOLE), Quarters(OUTSIDE_HOLE)
        self.asked: dict[int, tuple[int, Forecast]] = {}        # by hour of the day
        self.outcomes = collections.deque(outcomes, DAY // HOUR * LEARNED_DAYS)

    def find_outcomes(self, now: int, event: str) -> list[Outcome]:
        """Of earlier days at this hour, in order of time."""
        return [outcome for outcome in self.outcomes
                if (now - outcome.asked) % DAY < HOUR and outcome.event == event
                and now - outcome.asked <= LEARNED_DAYS * DAY]

    def learn(self, now: int) -> Outcome | None:
        """What became of yesterday's forecast of this full hour; to be called before ask."""
        asked, forecast = self.asked.pop(now % DAY, (0, None))
        if forecast is None or asked != now - DAY:
            return None
        sign = 1 if forecast.event == "cooler" else -1
        inside, outside = (series.until(now // QUARTER)[-1 - 2 * QUARTERS:]
                           for series in (self.inside, self.outside))
        gaps = [sign * (a - b) for a, b in zip(inside, outside, strict=True)]
        night = len(LEADS) + 1
        outcome = assess(forecast, asked, gaps[QUARTERS:QUARTERS + night], gaps[:night])
        if outcome:
            self.outcomes.append(outcome)
        return outcome

    def ask(self, now: int) -> Forecast | None:
        """At a full quarter of an hour, from what has been fed up to then."""
        forecast = foretell(self.outside.until(now // QUARTER),
                            self.inside.until(now // QUARTER), now)
        if forecast is None:
            return None
        if now % HOUR == 0:
            self.asked[now % DAY] = now, forecast
        width = learn_width(o.score for o in self.find_outcomes(now, forecast.event))
        forecast = widen(forecast, now, width)
        return forecast if is_worth_saying(forecast) else None


# -- the review -----------------------------------------------------------------------------------

REVIEW_BEFORE = (PAST_DAYS + LEARNED_DAYS + 2) * DAY    # what a row can depend on
REVIEW_WINDOW = 12 * HOUR       # of readings: behind them silence is forgotten, but no verdict is


class ReviewRow(NamedTuple):
    """What would have been said of a room at a full hour; of an unknown state, no forecast."""
    time: int
    verdict: Verdict
    forecast: Forecast | None
    outcome: Outcome | None     # of the forecast of the day before


def replay(forecaster: Forecaster, readings: Iterable[tuple[int, int, float]], start: int, end: int
           ) -> Iterator[tuple[int, Forecast | None, Outcome | None]]:
    """For the full hours of [start, end): hour, what it says, what has become of yesterday's.

    readings are (time, 0 for inside or 1 for outside, °C), in order of time.
    """
    series = (forecaster.inside, forecaster.outside)
    coming = iter(readings)
    ahead = next(coming, None)
    for now in range(-(-start // HOUR) * HOUR, end, HOUR):
        while ahead and ahead[0] <= now:
            series[ahead[1]].add(ahead[0], ahead[2])
            ahead = next(coming, None)
        outcome = forecaster.learn(now)
        yield now, forecaster.ask(now), outcome


def review(inside: Iterable[Sample], outside: Iterable[Sample], start: int, end: int,
           comfort: float) -> Iterator[ReviewRow]:
    """A row for each full hour of [start, end), from readings since REVIEW_BEFORE the start.

    What adapts is replayed before each row over the same span, and the verdict from a midnight of
    UTC on; so no row depends on the start.
    """
    windows: tuple[list[Sample], list[Sample]] = ([], [])

    def pass_by() -> Iterator[tuple[int, int, float]]:
        for ms, side, value in heapq.merge(((ms, 0, value) for ms, value in inside),
                                           ((ms, 1, value) for ms, value in outside)):
            yield ms, side, value
            windows[side].append((ms, value))       # once it has been heard
            if windows[side][0][0] < ms - 2 * VERDICT_WINDOW:
                del windows[side][:bisect.bisect(windows[side], (ms - VERDICT_WINDOW, math.inf))]

    course = START
    for now, said, outcome in replay(Forecaster(), pass_by(), start - REVIEW_BEFORE, end):
        if now < start - start % DAY:
            continue
        is_midnight = now % DAY == 0
        since = now - (VERDICT_WINDOW if is_midnight else REVIEW_WINDOW), math.inf
        rooms, air = (window[bisect.bisect(window, since):] for window in windows)
        verdict = judge(rooms, air, now, comfort, START if is_midnight else course)
        course = verdict.course
        if now >= start:
            yield ReviewRow(now, verdict, said if verdict.state != "unknown" else None, outcome)
