# Copy this file to config.py and fill it in. `iotserver.py --add-station` prints these lines.

API_KEY = ""  # the station's own key; the server shows it only once
SSID = ""  # name of the WiFi: 2.4 GHz, WPA2
WIFI_PASSWORD = ""
MAC_ADDRESS = ""  # as registered with the server; empty is the board's own
SERVER = "http://192.0.2.7:8000"  # the server's address: http or https, and no path

# These may be left out.
PERIOD = 60  # seconds from one measurement to the next
SENSOR = "auto"  # or "MCP9808", "BMP280"
FIELD = 1  # of the temperature; a BMP280 also sends field 3, pressure in hPa
