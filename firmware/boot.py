"""Runs first at every start: closes the door that the stock firmware leaves open, and waits.

The wait is for serial tools: Ctrl-C sent now stops the board before the station starts.
"""
import time

import network

GRACE_S = 3  # ampy and a person with a terminal both need less

# The SDK keeps the access point on, with a password that everybody knows, unless it is told.
network.WLAN(network.AP_IF).active(False)

print("Station starts in %d s; Ctrl-C stops it." % GRACE_S)
time.sleep(GRACE_S)
