"""Fixtures of the firmware's tests: a board that lives in virtual time, a server, a bad line."""
import interpreter
import pytest
import simulator


@pytest.fixture(scope="session")
def micropython():
    return interpreter.micropython()


@pytest.fixture(scope="session")
def iotserver(tmp_path_factory):
    server = simulator.Server(tmp_path_factory.mktemp("server"))
    yield server
    server.stop()


@pytest.fixture
def iot(iotserver):
    """A station of its own in the server."""
    return iotserver.add_station()


@pytest.fixture
def board(micropython, tmp_path, iot):
    """Board for a URL: board(url, PERIOD=10). Without a URL it talks to the server itself."""
    def make(url=None, **config):
        config = {"API_KEY": iot.key, "MAC_ADDRESS": iot.mac, "SERVER": url or iot.url, **config}
        return simulator.Board(micropython, tmp_path / "flash", **config)
    return make


@pytest.fixture
def line(iot):
    """Line with a plan between board and server: line(plan).url is what the board is given."""
    lines = []

    def make(plan, certificate=None):
        lines.append(simulator.Line(iot.url, plan, certificate))
        return lines[-1]
    yield make
    for each in lines:
        each.stop()


@pytest.fixture
def script(micropython, tmp_path):
    """Run lines of MicroPython among fakes and firmware; what they print comes back."""
    board = simulator.Board(micropython, tmp_path / "script", SERVER="http://192.0.2.7")
    return lambda text, **scenario: simulator.script(board, text, **scenario)
