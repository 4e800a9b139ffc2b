"""A WiFi interface as the SDK's: it joins by itself, and can hang in connecting."""
from world import world

STA_IF, AP_IF = 0, 1
STAT_IDLE, STAT_CONNECTING, STAT_GOT_IP = 0, 1, 5
JOIN_MS = 3000  # after a connect, or after the access point came back


class WLAN:
    def __init__(self, which):
        self.which = which
        self.on = which == AP_IF
        self.since = None  # when it began to look for the network
        self.stuck = False

    def active(self, on=None):
        if on is not None:
            self.on = on
            world.log("active", f"{self.which} {on:d}")
        return self.on

    def config(self, name):
        assert name == "mac"
        return b"\x5c\xcf\x7f\x01\x02\x03"

    def connect(self, ssid, password):
        assert self.on
        world.log("join", ssid)
        if world.within("sdk_busy"):
            raise OSError("Cannot connect to AP")
        hangs = world.state.get("stuck", world.get("stuck", 0))
        if hangs:
            world.state["stuck"] = hangs - 1
            self.stuck = True
        self.since = world.now

    def disconnect(self):
        world.log("leave")
        if self.since is None:
            raise OSError("Cannot disconnect from AP")
        self.since, self.stuck = None, False

    def isconnected(self):
        if world.within("wifi_down"):
            if self.since is not None:
                self.since = world.now
            return False
        slow = int(world.get("join_s", 0) * 1000) or JOIN_MS
        return self.since is not None and not self.stuck and world.now - self.since >= slow

    def status(self):
        if self.isconnected():
            return STAT_GOT_IP
        return STAT_IDLE if self.since is None else STAT_CONNECTING

    def ifconfig(self):
        return ("192.0.2.33", "255.255.255.0", "192.0.2.1", "192.0.2.1")
