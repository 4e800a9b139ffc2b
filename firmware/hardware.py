"""The board: its radio, memory and bus, its time, and a reset for a program that stands still."""
import time

from bus import free_bus

BUS_HZ = 100000
NAP_S = 20  # so soon a lost WiFi is noticed
HUNG_S = 300  # without a turn of the wheel; only a name lookup can block that long


class Board:
    """The hardware: an ESP8266, an ESP32 or one of its kin."""

    def __init__(self, machine, network):
        self.machine = machine
        self.wlan = network.WLAN(network.STA_IF)
        self.wlan.active(True)
        self.rtc = machine.RTC()

    def i2c(self, scl, sda):
        """The I2C bus, freed first from a sensor that holds it. SoftI2C works on any pins."""
        pin = self.machine.Pin
        scl, sda = pin(scl, pin.OPEN_DRAIN, value=1), pin(sda, pin.OPEN_DRAIN, value=1)
        free_bus(scl, sda)
        return self.machine.SoftI2C(scl=scl, sda=sda, freq=BUS_HZ)

    def timer(self):
        """A virtual timer, or a hardware one where an ESP32's image knows no other."""
        try:
            return self.machine.Timer(-1)
        except ValueError:
            return self.machine.Timer(0)


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
