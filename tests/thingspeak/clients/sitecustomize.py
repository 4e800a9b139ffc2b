"""For programs that know only api.thingspeak.com: here that name, at any port, is our server."""
import os
import socket

look_up = socket.getaddrinfo


def redirected(host, port, *args, **more):
    if host == "api.thingspeak.com":
        host, port = "127.0.0.1", int(os.environ["THINGSPEAK_PORT"])
    return look_up(host, port, *args, **more)


socket.getaddrinfo = redirected
