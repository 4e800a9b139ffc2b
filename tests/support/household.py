"""A household that is played at high speed: a server in this process whose clocks stand still, and
the courier's part that carries messages. All that they say to each other is the lines that go
through a real courier's socket; destinations are real ones."""
import json

from harness import finish, settings
from house import House

import iotserver
from iotserver import MINUTE

ROOMS = (("inside", "inside"), ("outside", "outside"))


class Line:
    """What the courier has of the server: iotserver.Remote without a socket."""

    def __init__(self, server):
        self.counter = iotserver.CourierSocket(server)

    def __getattr__(self, method):
        def call(*arguments):
            line = json.dumps([method, arguments]).encode()
            answer = json.loads(finish(self.counter.execute(line)))
            if "error" in answer:
                raise iotserver.StoreError(answer["error"])
            return answer["result"]
        return call


class Household:
    """The stations ROOMS, or others; flags are the server's and the courier's."""

    def __init__(self, path, *stations, now, **flags):
        self.path, self.flags = path, {"units": "C", **flags}
        self.house, self.messengers = None, []
        self.start(now, stations or ROOMS)

    def start(self, now, stations=(), courier=True):
        """The server, from what the file says, and perhaps a new courier."""
        self.now = now
        self.house = House(self.path, **self.flags)
        self.house.time = now / 1000
        for number, (name, role) in enumerate(stations):
            self.house.writer.add_station(name, f"mac-{number}", role, None, now + number)
        if courier:
            self.restart_courier()

    def restart_courier(self):
        self.messengers = iotserver.ERRANDS["notify"](settings(**self.flags))

    def restart(self):
        now = round(self.house.time * 1000)
        self.close()
        self.start(now)

    def close(self):
        self.house.close()

    def send(self, **values):
        """A reading of each station, now, of field 1 unless the value is {field: value}."""
        now, server = round(self.house.time * 1000), self.house.server
        stations = {station.name: station for station in server.writer.stations.values()}
        for name, value in values.items():
            for field, number in (value if isinstance(value, dict) else {1: value}).items():
                server.writer.add(stations[name], iotserver.Reading(field, number, 0, None), now)
        server.turn.end()

    def carry(self):
        """One try of all that there is."""
        line = Line(self.house.server)
        for messenger in self.messengers:
            messenger.step(line)

    def play(self, minutes, **values):
        """So many minutes, with a reading of each station in each of them."""
        for _ in range(minutes):
            self.house.time += MINUTE / 1000
            self.send(**values)
            self.carry()
