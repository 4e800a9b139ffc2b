"""config.py, checked before anything else, so that a mistake in it is told in plain words."""
import wifitools

PRESSURE_FIELD = 3  # of a BMP280, in hPa


class Settings:
    """config.py, checked. ValueError says what to write into it."""

    NEEDED = ("API_KEY", "SSID", "WIFI_PASSWORD", "MAC_ADDRESS", "SERVER")
    MAY_BE_EMPTY = ("WIFI_PASSWORD", "MAC_ADDRESS")

    def __init__(self, config):
        for name in self.NEEDED:
            if not isinstance(getattr(config, name, None), str):
                raise ValueError("config.py has no %s: add the line that --add-station printed, "
                                 "or see config.example.py" % name)
            if not getattr(config, name) and name not in self.MAY_BE_EMPTY:
                raise ValueError("config.py: %s is empty" % name)
        self.key, self.ssid, self.password = config.API_KEY, config.SSID, config.WIFI_PASSWORD
        self.mac = config.MAC_ADDRESS
        self.server = wifitools.Server(config.SERVER)
        self.period = whole(config, "PERIOD", 60, 5, 86400)
        self.field = whole(config, "FIELD", 1, 1, 9)
        self.sensor = getattr(config, "SENSOR", "auto")
        self.check_sensor()

    def check_sensor(self):
        if self.sensor not in ("auto", "MCP9808", "BMP280"):
            raise ValueError("config.py: SENSOR must be auto, MCP9808 or BMP280")
        if self.field == PRESSURE_FIELD and self.sensor != "MCP9808":
            raise ValueError("config.py: FIELD 3 is where a BMP280 sends pressure; "
                             "choose another, or say SENSOR = 'MCP9808'")


def whole(config, name, default, least, most):
    value = getattr(config, name, default)
    if not isinstance(value, int) or not least <= value <= most:
        raise ValueError("config.py: %s must be a whole number from %d to %d"
                         % (name, least, most))
    return value


def load():
    try:
        import config
    except ImportError:
        raise ValueError("no config.py on the board: copy config.example.py, fill it in")
    return Settings(config)
