"""Asking the network for the time."""
from world import world

TIMED_OUT = 110


def settime():
    world.log("ntp")
    if world.within("ntp_fails"):
        raise OSError(TIMED_OUT)
    world.state["clock"] = 2026
