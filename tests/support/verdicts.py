"""Verdicts from lists of readings, without a server."""
import iotserver as iot

LEARNED = (iot.SILENT_AT_LEAST, iot.SILENT_AT_LEAST)


def go_on(inside, outside, now, comfort, course=iot.START, learned=LEARNED):
    """The verdict at now from readings in order of time, and its course."""
    sides = [[*iot.sayings(side, limit)] for side, limit in zip(
        (inside, outside), learned, strict=True)]
    begin = iot.START if course.at > now else course
    after = [begin, *iot.follow(begin, *sides, comfort)][-1]
    return iot.judge(after, *(side[-1] if side else iot.UNHEARD for side in sides), now), after


def judge(inside, outside, now, comfort, course=iot.START, learned=LEARNED):
    """The same without its course; by default all readings are replayed."""
    return go_on(inside, outside, now, comfort, course, learned)[0]
