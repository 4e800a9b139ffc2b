"""Who holds connections to nginx and asks for nothing: with Debian's nginx.conf as it is shipped,
and as install.sh leaves it.
"""
import shutil

import pytest
from machine import MACHINE
from tools import SYSTEMD, needs

pytestmark = needs(*MACHINE)
NGINX = "/etc/nginx/nginx.conf"
STOCK = "\tworker_connections 768;\n"
ANSWERED = "400"                # what the server says to an update of nothing
ATTACK = """
import contextlib, resource, socket, sys, time
resource.setrlimit(resource.RLIMIT_NOFILE, [resource.getrlimit(resource.RLIMIT_NOFILE)[1]] * 2)
addresses, each = int(sys.argv[1]), int(sys.argv[2])
held = []
for number in range(addresses * each):
    with contextlib.suppress(OSError):
        channel = socket.create_connection(
            ("127.0.0.1", 80), 1, (f"127.0.1.{number % addresses}", 0))
        channel.sendall(b"GET /update HTTP/1.1\\r\\nHost: h\\r\\nA: ")
        held.append(channel)
time.sleep(0.5)
for channel in list(held):
    channel.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        with contextlib.suppress(ConnectionError):
            channel.recv(1)
        held.remove(channel)
started = time.monotonic()
try:
    with socket.create_connection(("127.0.0.1", 80), 3, ("127.0.0.9", 0)) as station:
        station.sendall(b"GET /update HTTP/1.1\\r\\nHost: h\\r\\nConnection: close\\r\\n\\r\\n")
        answer = station.recv(100).split()[1].decode()
except (OSError, IndexError):
    answer = "none"
print(len(held), answer, time.monotonic() - started)
"""


@pytest.fixture
def installed(machine, tmp_path):
    """The machine after install.sh, from a copy of its files; its nginx runs since before."""
    if STOCK not in machine.run(f"cat {NGINX}"):
        pytest.fail(f"{NGINX} of this machine is not as Debian ships it")
    shutil.copytree(SYSTEMD, tmp_path / "source/systemd")
    shutil.copy(SYSTEMD.parent / "iotserver.py", tmp_path / "source")
    machine.put("/root/attack", ATTACK)
    machine.run("nginx")
    machine.run(f"{tmp_path}/source/systemd/install.sh")
    return machine


def attack(machine, addresses, each):
    """Unfinished heads: how many of them are held, and how another address is answered then."""
    held, answer, seconds = machine.run(f"python3 /root/attack {addresses} {each}").split()
    return int(held), answer, float(seconds)


def back_to_stock(machine):
    machine.run(f"sed -i 's/8192; #.*/768;/' {NGINX}; systemctl reload nginx")
    assert STOCK in machine.run(f"cat {NGINX}")


def test_unfinished_heads_of_many_addresses_leave_room(installed, record_property):
    """With 768 connections for each worker they do not, which is why install.sh raises that."""
    workers = int(installed.run("nproc"))
    count = workers * 768 // 200 + 3
    held, answer, seconds = attack(installed, count, 200)
    record_property("unfinished heads that nginx holds beside a station", held)
    assert (held, answer) == (count * 200, ANSWERED)
    assert seconds < 1
    back_to_stock(installed)
    held, answer, _ = attack(installed, count, 200)
    assert held < workers * 768
    assert answer == "none"


def test_one_address_gets_256_connections(installed):
    back_to_stock(installed)
    held, answer, seconds = attack(installed, 1, 2000)
    assert (held, answer) == (256, ANSWERED)
    assert seconds < 1
    installed.run("systemctl disable --now iotserver-limit.service")
    assert attack(installed, 1, 2000)[1] == "none"
