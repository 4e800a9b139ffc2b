"""Runs a program with other clocks: the seconds in the file `shift` are added to the time of day,
and all clocks go CLOCK_SPEED times as fast.

clock.py PROGRAM [ARGUMENT ...]
"""
import os
import runpy
import sys
import time
from pathlib import Path

SHIFT, SPEED = Path("shift").absolute(), float(os.environ.get("CLOCK_SPEED", "1"))
time_of_day, monotonic = time.time, time.monotonic
BEGAN = time_of_day()
time.time = lambda: (BEGAN + (time_of_day() - BEGAN) * SPEED
                     + (float(SHIFT.read_text()) if SHIFT.exists() else 0))
time.time_ns = lambda: int(time.time() * 1e9)
time.monotonic = lambda: monotonic() * SPEED
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
