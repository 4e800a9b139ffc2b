"""Begins the station: config.py, what an earlier start left, the sensors. Then it is forgotten.

To compile a file takes four times the memory that it keeps. So the largest come first and the
sensors' drivers last, and what is needed only now is dropped.
"""
import gc

import wifitools
from bus import forget
from hardware import Board


def prepare():
    """The Station, ready to run. ValueError: config.py needs work."""
    import machine
    import network
    board = Board(machine, network)
    config = once("settings", "load", wifitools.getmac(board.wlan))
    forget("config")
    import run
    gc.collect()
    station = run.Station(config, board)
    station.salt, station.boot = once("boots", "begin", board.rtc, station.waiting)
    station.begin()
    return station


def once(name, function, *what):
    """What that function of a module returns. The module is needed only now."""
    result = getattr(__import__(name), function)(*what)
    forget(name)
    return result
