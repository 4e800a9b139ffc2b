# Copy this file to config.py and fill it in. `iotserver.py --add-station` prints these lines.

API_KEY = ""  # the station's own key; the server shows it only once
SSID = ""  # name of the WiFi: 2.4 GHz, WPA2
WIFI_PASSWORD = ""
MAC_ADDRESS = ""  # as registered with the server; empty is the board's own
SERVER = "http://192.0.2.7:8000"  # the server's address: http or https, and no path

# These may be left out.
PERIOD = 60  # seconds from one measurement to the next
SENSOR = "auto"  # all on the I2C bus; or "DHT22", "DS18B20" on a data pin
FIELD = 1  # of the temperature; humidity in % is field 2, pressure in hPa field 3
# BOARD = "D1 mini"  # or "NodeMCU", "Feather Huzzah", "ESP32", "ESP32-S2", "ESP32-S3", "ESP32-C3"
# SCL, SDA, PIN = 5, 4, 14  # GPIO numbers, where they are not the board's usual ones
