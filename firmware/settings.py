"""config.py, checked before anything else, so that a mistake in it is told in plain words."""
import sys
from collections import namedtuple

import wifitools

NEEDED = ("API_KEY", "SSID", "WIFI_PASSWORD", "MAC_ADDRESS", "SERVER")
MAY_BE_EMPTY = ("WIFI_PASSWORD", "MAC_ADDRESS")

# Fields that a sensor uses besides FIELD: 2 is humidity, 3 pressure.
SENSORS = {"auto": (2, 3), "MCP9808": (), "BMP280": (2, 3), "BME280": (2, 3), "SHT3x": (2,),
           "SHT4x": (2,), "AHT20": (2,), "DHT22": (2,), "DS18B20": ()}
BOARDS = {"D1 mini": (5, 4, 14), "NodeMCU": (5, 4, 14), "Feather Huzzah": (5, 4, 14),
          "ESP32": (22, 21, 4), "ESP32-S2": (9, 8, 4), "ESP32-S3": (9, 8, 4),
          "ESP32-C3": (9, 8, 4)}  # SCL, SDA, PIN
OF_PLATFORM = {"esp8266": "D1 mini", "esp32": "ESP32"}  # as sys.platform has it: the usual board
LABELS = b"\x10\x05\x04\x00\x02\x0e\x0c\x0d\x0f"  # GPIO of D0 to D8, as D1 mini and NodeMCU print
ESP8266_PINS = (0, 2, 4, 5, 12, 13, 14)  # without those of flash, serial line, boot; GPIO16 is odd
MOST_PIN = 48

UNRESERVED = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~:"


def load(mac):
    """What config.py says; mac is the board's own. ValueError says what to write into it."""
    try:
        import config
    except ImportError:
        raise ValueError("no config.py on the board: copy config.example.py, fill it in")
    return check(config, mac)


def check(config, mac, platform=sys.platform):
    """config.py as a named tuple, which keeps nothing of this file in memory."""
    for name in NEEDED:
        if not isinstance(getattr(config, name, None), str):
            raise ValueError("config.py has no %s: add the line that --add-station printed, "
                             "or see config.example.py" % name)
        if not getattr(config, name) and name not in MAY_BE_EMPTY:
            raise ValueError("config.py: %s is empty" % name)
    names = ("mac", "path", "ssid", "password", "server", "period", "field", "sensor",
             "scl", "sda", "pin")
    mac, sensor = config.MAC_ADDRESS or mac, sensor_of(config)
    path = "/update/API_key=%s/mac=%s" % (quote(config.API_KEY), quote(mac))
    return namedtuple("Config", names)(
        mac, path, config.SSID, config.WIFI_PASSWORD,
        server_of(config.SERVER, authority_of(config, platform)),
        whole(config, "PERIOD", 60, 5, 86400), field_of(config, sensor), sensor,
        *pins(config, OF_PLATFORM.get(platform)))


def quote(text):
    """Percent-encoded, so that any key or MAC stays one part of a path."""
    return "".join(c if c in UNRESERVED else "".join("%%%02X" % b for b in c.encode())
                   for c in text)


def authority_of(config, platform):
    """CA: the file with the certificate that the server's is checked with; '' is no check."""
    name = getattr(config, "CA", "")
    if not isinstance(name, str) or "/" in name or name and not config.SERVER.startswith("https:"):
        raise ValueError("config.py: CA is the name of a file, and needs a SERVER with https")
    if name and (platform == "esp8266" or is_small(getattr(config, "BOARD", None))):
        raise ValueError("config.py: CA needs an ESP32; an ESP8266 cannot check certificates")
    return name


def server_of(url, authority=""):
    """The URL is http or https, a host, a port if unusual, and no path."""
    scheme, _, rest = (url.rstrip("/") + "//").split("/", 2)
    tls = scheme.lower() == "https:"
    host, port = (rest.rstrip("/").split(":") + ["443" if tls else "80"])[:2]
    known = scheme.lower() in ("http:", "https:")
    if not (known and host and port.isdigit()) or "/" in host:
        raise ValueError("SERVER must look like http://192.0.2.7:8000, not '%s'" % url)
    return wifitools.Server(tls, host, int(port), authority)


def sensor_of(config):
    """SENSOR; the SHT30, SHT31, ... are one, as are the SHT40, SHT41, ..."""
    sensor = getattr(config, "SENSOR", "auto")
    if isinstance(sensor, str) and sensor[:4] in ("SHT3", "SHT4"):
        sensor = sensor[:4] + "x"
    if sensor not in SENSORS:
        raise ValueError("config.py: SENSOR must be one of " + ", ".join(sorted(SENSORS)))
    return sensor


def field_of(config, sensor):
    field = whole(config, "FIELD", 1, 1, 9)
    if field in SENSORS[sensor]:
        raise ValueError("config.py: FIELD %d is where %s sends %s; choose another, or say which "
                         "SENSOR it is" % (field, sensor, ("humidity", "pressure")[field - 2]))
    return field


def pins(config, board):
    """GPIO numbers of SCL, SDA and PIN: those of BOARD, unless config.py has its own."""
    board = getattr(config, "BOARD", board)
    if board is not None and board not in BOARDS:
        raise ValueError("config.py: BOARD must be one of %s; or leave it out, and set SCL, SDA "
                         "or PIN" % ", ".join(sorted(BOARDS)))
    return [pin_of(getattr(config, name, usual), name, is_small(board))
            for name, usual in zip(("SCL", "SDA", "PIN"), BOARDS[board or "D1 mini"])]


def is_small(board):
    """Whether a board of that name has an ESP8266."""
    return board is not None and not board.startswith("ESP32")


def pin_of(pin, name, small):
    """A GPIO number; D5 and the like are what an ESP8266 board has printed beside it."""
    if small and pin in ["D%d" % number for number in range(len(LABELS))]:
        pin = LABELS[int(pin[1])]
    if not isinstance(pin, int) or not (pin in ESP8266_PINS if small else 0 <= pin <= MOST_PIN):
        raise ValueError("config.py: %s must be %s" % (
            name, "D1 to D7, or GPIO 0, 2, 4, 5, 12, 13, 14" if small
            else "a GPIO number; for D1 and the like, name the BOARD"))
    return pin


def whole(config, name, default, least, most):
    value = getattr(config, name, default)
    if not isinstance(value, int) or not least <= value <= most:
        raise ValueError("config.py: %s must be a whole number from %d to %d"
                         % (name, least, most))
    return value
