"""The world around a simulated board: virtual time, weather, radio, power, and a log of events.

A scenario is a dictionary (`scenario.json` in the board's folder); windows are lists of
[from, to] in seconds of virtual time, which goes on across resets (`state.json`).
"""
import gc
import json
import sys

TICKS = 1 << 30
START_MS = 1500  # from a reset to boot.py, about


class End(BaseException):
    """The scenario is over; no `except Exception` of the firmware may stop this."""


class Reset(BaseException):
    """The board was told to reset."""


class World:
    def __init__(self):
        with open("scenario.json") as file:
            self.scenario = json.load(file)
        with open("state.json") as file:
            self.state = json.load(file)
        self.now = self.state["now"]  # ms since the scenario began
        self.booted = self.now
        self.log_file = open("events.txt", "a")  # noqa: SIM115 - open for all of a life
        self.timers = []
        self.sockets = 0
        self.interrupt = self.scenario.get("interrupt")
        self.button = self.scenario.get("button")
        if self.now >= (self.button or 0) * 1000:
            self.button = None

    def get(self, name, default=None):
        return self.scenario.get(name, default)

    def log(self, kind, what=""):
        self.log_file.write(f"{self.now} {kind} {what}\n")

    def within(self, name):
        """Whether now is in one of the windows of that name."""
        for start, end in self.scenario.get(name, ()):
            if start * 1000 <= self.now < end * 1000:
                return True
        return False

    def ticks(self):
        first = self.scenario.get("ticks", 0) if self.booted == 0 else 0
        return (first + self.now - self.booted) % TICKS

    def advance(self, milliseconds):
        """Let time pass: timers fire, Ctrl-C comes, the scenario ends."""
        end = self.now + milliseconds
        while True:
            due = min([timer.due for timer in self.timers] + [end])
            self.outside(due)
            self.now = max(self.now, due)
            if self.now >= self.scenario["end"] * 1000:
                raise End
            if due == end:
                return
            for timer in self.timers:
                timer.fire(self.now)

    def outside(self, due):
        """Ctrl-C and the reset button come when they come, whatever the board is doing."""
        if self.interrupt is not None and self.interrupt * 1000 <= due:
            self.interrupt = None
            self.log("interrupt")
            raise KeyboardInterrupt
        if self.button is not None and self.button * 1000 <= due:
            self.now = max(self.now, self.button * 1000)
            raise Reset

    def rest(self, milliseconds):
        """A long sleep: here the firmware owns nothing, so here it is weighed."""
        if milliseconds >= 1000:
            gc.collect()
            self.log("rest", f"{gc.mem_alloc()} {self.sockets}")
            if self.get("modules"):
                self.log("modules", " ".join(sys.modules))
        self.advance(milliseconds)

    def close(self, how):
        self.state["now"] = self.now + (START_MS if how == "reset" else 0)
        with open("state.json", "w") as file:
            json.dump(self.state, file)
        self.log("over", how)
        self.log_file.close()


world = World()


def noise(kind):
    """Whether this operation is one of those that fail: at random one of so many."""
    if not world.get(kind):
        return False
    draw = (world.state.get("noise", 1) * 48271) % 2147483647
    world.state["noise"] = draw
    return draw % world.get(kind) == 0
