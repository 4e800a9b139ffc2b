"""The station: measure every PERIOD, keep what cannot be sent yet, send it when the way is free.

Who does what: `sensors` measures; `backlog` keeps readings, names them and carries them over a
reset; `sender` decides what becomes of each; `wifitools` talks; this file turns the wheel.
No module but this one and boot.py, main.py needs a board to be tried out.
"""
# isort: off
import gc
import time

import backlog
import wifitools
import sender
import sensors
import settings

SCL, SDA = 5, 4  # GPIO numbers
BUS_HZ = 100000

NAP_S = 20  # so soon a lost WiFi is noticed
GIVE_UP_S = 600  # without WiFi; then a reset, which cures a radio that is stuck
HUNG_S = 300  # without a turn of the wheel; only a name lookup can block that long


class Clock:
    """Whole seconds since start. Ticks wrap after 12 days, and floats here step by seconds."""

    def __init__(self):
        self.ticks = time.ticks_ms()
        self.seconds = 0

    def now(self):
        gone = time.ticks_diff(time.ticks_ms(), self.ticks) // 1000
        self.ticks = time.ticks_add(self.ticks, gone * 1000)
        self.seconds += gone
        return self.seconds


class Watchdog:
    """Ends a turn that hangs. The one wait without an end of its own is a name lookup."""

    def __init__(self, timer, end):
        self.timer, self.end = timer, end
        self.kick()
        timer.init(period=NAP_S * 1000, mode=timer.PERIODIC, callback=self.tick)

    def kick(self):
        self.left = HUNG_S // NAP_S

    def tick(self, _timer):
        self.left -= 1
        if self.left <= 0:
            self.end("nothing moved for %d s" % HUNG_S)

    def stop(self):
        """Else it would reset a board that somebody stopped with Ctrl-C."""
        self.timer.deinit()


class Board:
    """The hardware of a Feather Huzzah."""

    def __init__(self, machine, network):
        self.machine = machine
        self.wlan = network.WLAN(network.STA_IF)
        self.wlan.active(True)
        self.rtc = machine.RTC()

    def bus(self):
        """The I2C bus, freed first from a sensor that holds it."""
        pin = self.machine.Pin
        scl, sda = pin(SCL, pin.OPEN_DRAIN, value=1), pin(SDA, pin.OPEN_DRAIN, value=1)
        sensors.free_bus(scl, sda)
        return sensors.Bus(self.machine.I2C(scl=scl, sda=sda, freq=BUS_HZ))


class Station:
    def __init__(self, config, board):
        self.config, self.board = config, board
        self.clock, self.waiting = Clock(), backlog.Backlog()
        self.salt, self.boot = backlog.next_boot()
        backlog.restore(board.rtc, self.waiting, self.salt)
        self.sender = sender.Sender(config, self.waiting, self.salt, self.clock)
        self.count = self.measure_at = 0
        self.sensor = self.lost_at = None
        self.watchdog = Watchdog(board.machine.Timer(-1), self.restart)

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
        """One failed read skips one reading, and looks for the sensor afresh next time."""
        now, period = self.clock.now(), self.config.period
        self.measure_at += (1 + (now - self.measure_at) // period) * period
        try:
            if self.sensor is None:
                self.sensor = sensors.find(self.board.bus(), self.config.sensor)
            values = self.sensor.read()
        except OSError as error:
            self.sensor = None
            print("no reading:", error)
            return
        self.keep(now, values)

    def keep(self, now, values):
        self.count += 1
        for field, value in zip((self.config.field, settings.PRESSURE_FIELD), values):
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


def main():
    """Runs until Ctrl-C. ValueError: config.py needs work."""
    config = settings.load()
    import machine
    import network
    board = Board(machine, network)
    config.mac = config.mac or wifitools.getmac(board.wlan)
    station = Station(config, board)
    try:
        print("station %s, boot %d, %d readings carried over"
              % (config.mac, station.boot, len(station.waiting)))
        while True:
            station.turn()
    finally:
        station.watchdog.stop()
