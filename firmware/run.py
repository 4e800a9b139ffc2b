"""The station: measure every PERIOD, keep what cannot be sent yet, send it when the way is free.

Who does what: `start` reads config.py and finds the sensors; `sensors` measures; `backlog` keeps
readings, names them and carries them over a reset; `sender` decides what becomes of each;
`wifitools` talks; this file turns the wheel.
No module but `start`, boot.py and main.py needs a board to be tried out.
"""
# isort: off
import gc
import time

# What takes most memory to be compiled comes first.
import sensors
import sender
import backlog
import wifitools
from hardware import NAP_S, Clock, Watchdog

GIVE_UP_S = 600  # without WiFi; then a reset, which cures a radio that is stuck
LAST_FIELD = 9  # the server knows no other; further thermometers on the wire are left out


class Station:
    """`start` makes it, and gives it `salt` and `boot` before it begins."""

    def __init__(self, config, board):
        self.config, self.board = config, board
        self.clock, self.waiting = Clock(), backlog.Backlog()
        self.sensors = sensors.Sensors(board, config)
        self.count = self.measure_at = 0
        self.lost_at = None

    def begin(self):
        """Loads the drivers of sensors that answer; the first measurement tells what does not."""
        self.sender = sender.Sender(self.config, self.waiting, self.salt, self.clock)
        try:
            self.sensors.look()
        except OSError:
            pass

    def run(self):
        """Runs until Ctrl-C."""
        print("station %s, boot %d, %d readings carried over"
              % (self.config.mac, self.boot, len(self.waiting)))
        self.watchdog = Watchdog(self.board.timer(), self.restart)
        try:
            while True:
                self.turn()
        finally:
            self.watchdog.stop()

    def turn(self):
        """Measure if it is time, send if that is possible, rest."""
        if self.clock.now() >= self.measure_at:
            self.measure()
        self.save()  # before the network, which may end in a reset
        if self.online() and not self.sender.offer():
            wifitools.leave(self.board.wlan)
        gc.collect()
        self.rest()

    def measure(self):
        """A reading that fails is skipped; the sensor is looked for again at the next one."""
        now, period = self.clock.now(), self.config.period
        self.measure_at += (1 + (now - self.measure_at) // period) * period
        try:
            pairs = self.sensors.read()
        except OSError as error:
            print("no reading:", error)
            return
        self.keep(self.clock.now(), pairs)

    def keep(self, now, pairs):
        self.count += 1
        for kind, value in pairs:
            field = field_of(kind, self.config.field)
            if field > LAST_FIELD:
                continue
            thousandths = int(round(value * 1000))
            self.waiting.append((now, thousandths, self.boot, self.count, field))
            print("field %d: %s, waiting: %d"
                  % (field, backlog.decimal(thousandths), len(self.waiting)))

    def online(self):
        """Whether there is WiFi, after one try to get it. Long without: reset."""
        if self.board.wlan.isconnected():
            self.lost_at = None
            return True
        if self.lost_at is None:
            self.lost_at = self.clock.now()
            print("connecting to", self.config.ssid)
        if wifitools.connect(self.board.wlan, self.config.ssid, self.config.password):
            self.lost_at = None
            print("connected:", self.board.wlan.ifconfig()[0])
            return True
        if self.clock.now() - self.lost_at >= GIVE_UP_S:
            self.restart("no WiFi for %d s" % GIVE_UP_S)
        return False

    def save(self):
        backlog.save(self.board.rtc, self.waiting, self.salt, self.clock.now())

    def rest(self):
        """Until the next thing is due, but never so long that a lost WiFi goes unnoticed."""
        self.watchdog.kick()
        now = self.clock.now()
        wake = min(self.measure_at, now + NAP_S)
        if len(self.waiting) and self.board.wlan.isconnected():
            wake = min(wake, self.sender.due)
        time.sleep(max(wake - now, 0))

    def restart(self, why):
        print("reset:", why)
        while len(self.waiting) > backlog.RTC_RECORDS:
            self.waiting.thin()
        self.save()
        self.board.machine.reset()
        time.sleep(NAP_S)  # the reset takes hold while the SDK runs


def field_of(kind, first):
    """Where a driver's field is sent: 1 to FIELD, further temperatures to those beside it."""
    if kind == 1:
        return first
    return kind + 1 if 4 <= first <= kind else kind
