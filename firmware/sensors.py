"""The station's sensors: which are there, and what they say. A driver is loaded where it is used.

A driver's class has the name of its file. It is made with the bus and an address, or with the
module `machine` and a pin. Its read() gives pairs of field and value: field 1 is the first
temperature, 2 humidity in %, 3 pressure in hPa, 4 to 9 further temperatures.
"""
from bus import Bus, forget, insist

# The largest driver first, which needs most memory to be compiled; of several that are found, the
# last is the most exact. A BME280's driver contains that of a BMP280. An SHT3x is not asked before
# an SHT4x had its turn: the SHT3x's commands would heat an SHT4x.
ON_BUS = (("BMP280", 0x76), ("BMP280", 0x77), ("BME280", 0x76), ("BME280", 0x77), ("AHT20", 0x38),
          ("SHT4x", 0x44), ("SHT3x", 0x44), ("SHT3x", 0x45), ("MCP9808", 0x18))
ON_PIN = ("DHT22", "DS18B20")
NOBODY = 19  # ENODEV: no device acknowledged the address


class Place:
    """Where a sensor was found. `driver` is None while it does not answer."""

    def __init__(self, name, where, driver=None):
        self.name, self.where, self.driver = name, where, driver


class Sensors:
    """All sensors of a station. One that was found and is lost is looked for at each reading."""

    def __init__(self, board, config):
        self.board, self.config, self.bus = board, config, Bus()
        on_pin = config.sensor in ON_PIN
        self.places = [Place(config.sensor, config.pin)] if on_pin else []  # the most exact first

    def read(self):
        """Pairs of field and value. OSError when no sensor has a reading."""
        self.look()
        pairs = []
        for place in self.places:
            if place.driver:
                self.read_one(place, pairs)
        if not pairs:
            raise OSError("no sensor has a reading")
        return pairs

    def read_one(self, place, pairs):
        """Add what no sensor before had. A dead sensor stops no other."""
        try:
            fresh = insist(place.driver.read)
        except OSError as error:
            print(error)
            place.driver = None
            return
        fields = [field for field, _ in pairs]
        pairs.extend(pair for pair in fresh if pair[0] not in fields)

    def look(self):
        """For those that are lost; when none is left, for all that SENSOR means."""
        lost = [place for place in self.places if not place.driver]
        if self.places and not lost:
            return
        on_bus = self.config.sensor not in ON_PIN
        if on_bus:
            self.bus.i2c = self.board.i2c(self.config.scl, self.config.sda)
        for place in lost:
            try:
                place.driver = self.start(place.name, place.where)
            except OSError as error:
                print("%s: %s" % (place.name, error))
        if on_bus and not [place for place in self.places if place.driver]:
            for place in self.places:
                forget(place.name)
            self.places = []
            self.look_everywhere()

    def look_everywhere(self):
        """Without pull-ups every address seems to answer, so each candidate proves itself."""
        problems = []
        for name, address in ON_BUS:
            if wanted(name, self.config.sensor) and address not in [p.where for p in self.places]:
                try:
                    self.places.insert(0, Place(name, address, self.start(name, address)))
                except OSError as error:
                    if error.args[0] != NOBODY:
                        problems.append(error)
                except MemoryError:
                    if not self.places:
                        raise
                    print("no memory for", name)
        if not self.places:
            for problem in problems:
                print(problem)
            raise OSError("no sensor found on I2C: check power, SCL on GPIO%d, SDA on GPIO%d"
                          % (self.config.scl, self.config.sda))

    def start(self, name, where):
        """The driver of a sensor that answers as itself. OSError: it does not."""
        try:
            if name in ON_PIN:
                return load(name)(self.board.machine, where)
            self.bus.writeto(where, b"")  # nothing is loaded for an address where nobody is
            return insist(load(name), self.bus, where)
        except OSError:
            if name not in [place.name for place in self.places]:
                forget(name)
            raise


def wanted(name, sensor):
    """A BME280 may be called by its older brother's name, which shops do, too."""
    return sensor in ("auto", name) or (sensor, name) == ("BMP280", "BME280")


def load(name):
    try:
        return getattr(__import__(name), name)
    except ImportError as error:
        raise OSError("%s: %s" % (name, error))
