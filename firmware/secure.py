"""HTTPS: what an ESP8266 can do of it, and an ESP32."""
import ssl
import time

CLOCK_SET = 2024  # a year in which no board starts by itself


def encrypted(stream, server):
    """TLS. Without an authority nobody looks at the certificate; an ESP8266 cannot."""
    if not server.authority:
        return ssl.wrap_socket(stream, server_hostname=server.host)
    set_clock()
    with open(server.authority, "rb") as file:
        authority = file.read()
    try:
        return ssl.wrap_socket(stream, server_hostname=server.host, cert_reqs=ssl.CERT_REQUIRED,
                               cadata=authority)
    except ValueError as error:
        raise OSError("certificate: %s" % error)


def set_clock():
    """A certificate has dates, and a board without a clock starts in the year 2000."""
    if time.gmtime()[0] < CLOCK_SET:
        import ntptime
        ntptime.settime()
