"""Charts, drawn without a page: whatever was sent, a line is where its readings are."""
import re

import pytest
from harness import NOON
from house import corners_of
from hypothesis import given
from hypothesis import strategies as some

import iotserver as iot
from iotserver import DAY, HOUR, MINUTE, Chart, Line, Point

ANY_NUMBER = some.floats(allow_nan=False)       # °F of 1.7e308 °C are infinite


def draw(points, bounds=(), draws=iot.draw_chart, unit="hPa"):
    return draws(Chart([Line("x", "inside", points)], unit, NOON - DAY, NOON, iot.ENGLISH,
                       bounds=bounds))


def readings(*values, end=NOON, every=MINUTE):
    """One a minute, of which the last is now."""
    return [Point(end - i * every, v, v, v) for i, v in enumerate(reversed(values))][::-1]


def corners(chart):
    """(x, y) of the line, in steps."""
    curve = re.search(r'class="line" d="([^"]*)"', chart)
    return [corner for piece in corners_of(curve[1]) for corner in piece] if curve else []


@given(some.lists(ANY_NUMBER, max_size=30), some.lists(ANY_NUMBER, max_size=2))
def test_any_numbers_can_be_drawn(values, bounds):
    chart = draw(readings(*values), bounds)
    high, low = (float(re.search(rf'data-{k}="([^"]+)', chart)[1]) for k in ("high", "low"))
    assert all(0 <= x <= iot.STEPS and 0 <= y <= round((high - low) * iot.GRAIN)
               for x, y in corners(chart))
    assert "nan" not in chart


@pytest.mark.parametrize(("value", "shown"), [
    (1e17, "1e+17"), (-1.7e308, "1.7e+308"), (3.4e38, "3.4e+38"), (1e6, "1e+06")])
def test_what_is_far_off_is_left_out_and_told(value, shown):
    chart = draw(readings(20, 21, value, 22, 23))
    assert len(corners(chart)) == 4
    assert chart.count(f"1 not drawn: as far off as {shown}") == 2      # seen, and read aloud
    assert float(re.search(r'data-high="([\d.e+-]+)', chart)[1]) < 30
    assert "not drawn" in draw(readings(value)) or value == 1e6


def test_impossible_readings_that_were_left_out_are_told():
    line = Line("x", "hue1", readings(20, 21))
    chart = Chart([line], "°C", NOON - DAY, NOON, iot.ENGLISH)
    note = "impossible readings not drawn"
    assert note not in iot.render_chart(chart)
    assert iot.render_chart(chart._replace(lines=[line._replace(has_odd=True)])).count(note) == 2


def test_what_is_left_out_is_told_below_the_drawing():
    """There it covers neither a line nor the word now."""
    line = Line("x", "hue1", readings(20, -30_000, 21))
    chart = iot.render_chart(Chart([line], "°C", NOON - DAY, NOON + DAY // 2, iot.ENGLISH,
                                   present=NOON))
    drawing, note = chart.split("</svg>")
    assert note == '<p class="second">1 not drawn: as far off as 3e+04</p>'
    assert ">1 not drawn" not in drawing


def test_what_can_be_true_is_drawn():
    for values in ([0] * 50 + [900], [20, -127, 20], [101_325, 101_400], [0, 0, 65_535, 40_000]):
        chart = draw(readings(*values))
        assert len(corners(chart)) == len(values)
        assert "not drawn" not in chart


def test_a_chart_ends_at_its_end():
    """A clock that jumped, and one that began in 1970."""
    chart = draw([Point(0, 5, 5, 5), *readings(20, 21), Point(NOON + 20 * HOUR, 5, 5, 5)])
    assert len(corners(chart)) == 2
    assert "last 21.0" in chart


def test_one_that_fails_is_told_of_and_no_more(monkeypatch, capsys):
    monkeypatch.setattr(iot, "value_ticks", lambda *_: 1 / 0)
    assert draw(readings(20), draws=iot.render_chart) == "<p>This chart could not be drawn.</p>"
    assert "ZeroDivisionError" in capsys.readouterr().err


# -- gaps -----------------------------------------------------------------------------------------

def hours(count, end):
    return [Point(end - (count - i) * HOUR + HOUR // 2, 20, 19, 21, HOUR) for i in range(count)]


@pytest.mark.parametrize(("points", "pieces"), [
    ([*hours(20, NOON), *readings(*[20] * 200, end=NOON + 200 * MINUTE)], 1),       # pruned
    (readings(*[20] * 30) + readings(*[20] * 9, end=NOON + 9 * 30 * MINUTE, every=30 * MINUTE),
     1),                                                                    # PERIOD 60 -> 1800
    (readings(*[20] * 9, every=30 * MINUTE) + readings(*[20] * 30, end=NOON + 30 * MINUTE), 1),
    (readings(*[20] * 30) + readings(*[20] * 30, end=NOON + 90 * MINUTE), 2),       # was away
    (hours(20, NOON) + hours(20, NOON + 30 * HOUR), 2),
    (hours(20, NOON - 5 * HOUR) + readings(*[20] * 30), 2),
    ([p for i in range(0, 8, 2) for p in (*hours(1, NOON + i * HOUR), *readings(
        *[20] * 60, end=NOON + (i + 1) * HOUR - MINUTE))], 1),
], ids=["pruned", "slower", "faster", "away", "hours away", "away while pruned",
        "pruned here and there"])
def test_a_gap_is_what_is_unusual_where_it_is(points, pieces):
    found = list(iot.segments(points))
    assert len(found) == pieces
    assert [p for piece in found for p in piece] == points
