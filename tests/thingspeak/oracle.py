"""What a feed has to hold, worked out the slow way from the list of all entries.

Written from the vendor's documentation and the open-source server of 2015, not from ours.
One difference is meant: an average counts only what is there.
"""
import statistics
from datetime import UTC, datetime, timedelta, timezone
from typing import NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

MINUTES = {"10", "15", "20", "30", "60", "240", "720", "1440", "daily"}
GROUPINGS = ("timescale", "sum", "average", "median")
PLACE = ("latitude", "longitude", "elevation")


class Entry(NamedTuple):
    time: datetime
    number: int
    values: dict[str, str]      # field1, status, latitude, ...: what was sent


def number_of(text):
    """A value as a number, or None; a decimal comma will do."""
    try:
        value = float((text or "").replace(",", "."))
    except ValueError:
        return None
    return value if abs(value) < float("inf") else None


def zone_of(params):
    try:
        if params.get("timezone"):
            return ZoneInfo(params["timezone"])
    except (ZoneInfoNotFoundError, ValueError):
        return UTC
    return timezone(timedelta(hours=int(params.get("offset", 0))))


def instant(text, zone):
    parsed = datetime.fromisoformat(text.replace("Z", "+00:00"))
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=zone)


def show(time, zone):
    return time.astimezone(zone).isoformat(timespec="seconds").replace("+00:00", "Z")


def window(entries, now, params):
    """The raw entries that are asked for, in order of time."""
    zone, limit = zone_of(params), 100
    if {"results", "days", "minutes", "start", "end"} & params.keys():
        limit = min(8000, int(params.get("results", 8000)))
    start = datetime.min.replace(tzinfo=UTC)
    if "days" in params or "minutes" in params:
        start = now - timedelta(days=int(params.get("days", 0)),
                                minutes=int(params.get("minutes", 0)))
    if "start" in params:
        start = instant(params["start"], zone)
    end = instant(params["end"], zone) if "end" in params else now
    inside = [e for e in sorted(entries) if start <= e.time <= end]
    return inside[len(inside) - min(limit, len(inside)):]


def columns(fields, params):
    names = list(fields)
    names += PLACE if params.get("location", "").lower() == "true" else ()
    return names + (["status"] if params.get("status", "").lower() == "true" else [])


def feeds(entries, now, fields, params):
    """The list `feeds` of an answer; fields are those that have a label."""
    names, rows = columns(fields, params), window(entries, now, params)
    grouping = next((g for g in GROUPINGS if params.get(g) in MINUTES), None)
    if grouping:
        found = grouped(rows, names, grouping, params[grouping])
    else:
        found = [(e.time, {"entry_id": e.number}, {n: e.values.get(n) for n in names})
                 for e in rows]
    zone = zone_of(params)
    return [{"created_at": show(time, zone), **ids, **rounded(values, params)}
            for time, ids, values in found if is_between(values, params)]


def grouped(rows, names, grouping, minutes):
    """One row for each stretch from the first to the last entry, empty stretches too."""
    seconds = 60 * int({"daily": 1440}.get(minutes, minutes))
    stretches = {}
    for entry in rows:
        stretches.setdefault(int(entry.time.timestamp() // seconds), []).append(entry)
    found = []
    for number in range(min(stretches, default=0), max(stretches, default=-1) + 1):
        part = stretches.get(number, [])
        if grouping == "timescale":
            values = {n: part[0].values.get(n) if part else None for n in names}
        else:
            values = {n: combined([number_of(e.values.get(n)) for e in part], grouping)
                      if n.startswith("field") else None for n in names}
        found.append((datetime.fromtimestamp(number * seconds, UTC), {}, values))
    return found


def combined(numbers, grouping):
    present = [float(n) for n in numbers if n is not None]
    if not present:
        return None
    return str({"sum": sum, "average": statistics.fmean, "median": statistics.median}[
        grouping](present))


def rounded(values, params):
    if "round" not in params:
        return values
    return {n: shortened(v, int(params["round"])) if n.startswith("field") else v
            for n, v in values.items()}


def shortened(value, places):
    """As C's printf does it; a decimal comma stays one."""
    number = number_of(value)
    if number is None:
        return value
    return f"{number:.{places}f}".replace(".", "," if "," in value else ".")


def is_between(values, params):
    numbers = [number_of(v) for n, v in values.items() if n.startswith("field")]
    low, high = float(params.get("min", "-inf")), float(params.get("max", "inf"))
    return all(low <= n <= high for n in numbers if n is not None)
