"""Runs after boot.py: the station, and a reset after an error that it did not expect.

KeyboardInterrupt is no Exception, so Ctrl-C ends in the REPL and not in a reset.
"""
import sys
import time

import machine

PAUSE_S = 5  # long enough to break in; with a longer one the next measurement is late

try:
    import start
    station = start.prepare()
    sys.modules.pop("start").__dict__.clear()  # it has done its work
    station.run()
except Exception as error:
    sys.print_exception(error)
    print("Reset in %d s; Ctrl-C prevents it." % PAUSE_S)
    time.sleep(PAUSE_S)
    machine.reset()
