"""Who holds connections to nginx and asks for nothing: with Debian's nginx.conf as it is shipped,
and as install.sh leaves it.
"""
import pytest
from machine import MACHINE
from tools import SYSTEMD, needs, skip

pytestmark = needs(*MACHINE)
NGINX = "/etc/nginx/nginx.conf"
STOCK = "\tworker_connections 768;\n"
ANSWERED = "400"                # what the server says to an update of nothing
SHUT_OUT = {"none", "500"}      # nginx has no connection left: for whom asks, or to the server
ATTACK = """
import contextlib, resource, socket, sys, time
resource.setrlimit(resource.RLIMIT_NOFILE, [resource.getrlimit(resource.RLIMIT_NOFILE)[1]] * 2)
count, to, station, *addresses = sys.argv[1:]
held = []
for number in range(int(count)):
    with contextlib.suppress(OSError):
        source = addresses[number % len(addresses)]
        channel = socket.create_connection((to, 80), 5, (source, 0))
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
    with socket.create_connection((to, 80), 3, (station, 0)) as channel:
        channel.sendall(b"GET /update HTTP/1.1\\r\\nHost: h\\r\\nConnection: close\\r\\n\\r\\n")
        answer = channel.recv(100).split()[1].decode()
except (OSError, IndexError):
    answer = "none"
print(len(held), answer, time.monotonic() - started)
"""


@pytest.fixture
def installed(machine):
    """The machine after install.sh; its nginx runs since before."""
    if STOCK not in machine.run(f"cat {NGINX}"):
        skip(f"{NGINX} of this machine is not as Debian ships it")
    machine.put("/root/attack", ATTACK)
    machine.run(f"nginx; {SYSTEMD}/install.sh")
    return machine


def attack(machine, count, addresses, to="127.0.0.1", station="127.0.0.9"):
    """Unfinished heads: how many of them are held, and how another address is answered then."""
    held, answer, seconds = machine.run(
        f"python3 /root/attack {count} {to} {station} {' '.join(addresses)}").split()
    return int(held), answer, float(seconds)


def back_to_stock(machine):
    machine.run(f"sed -i 's/8192; #.*/768;/' {NGINX}; systemctl reload nginx")
    assert STOCK in machine.run(f"cat {NGINX}")


def test_unfinished_heads_of_many_addresses_leave_room(installed, record_property):
    """With 768 connections for each worker they do not, which is why install.sh raises that."""
    workers = int(installed.run("nproc"))
    addresses = [f"127.0.1.{n}" for n in range(workers * 768 // 200 + 3)]
    count = 200 * len(addresses)
    held, answer, seconds = attack(installed, count, addresses)
    record_property("unfinished heads that nginx holds beside a station", held)
    assert (held, answer) == (count, ANSWERED)
    assert seconds < 1
    back_to_stock(installed)
    held, answer, _ = attack(installed, count, addresses)
    assert held < workers * 768
    assert answer in SHUT_OUT


def test_one_address_gets_256_connections(installed):
    back_to_stock(installed)
    held, answer, seconds = attack(installed, 2000, ["127.0.1.1"])
    assert (held, answer) == (256, ANSWERED)
    assert seconds < 1
    installed.run("systemctl disable --now iotserver-limit.service")
    assert attack(installed, 2000, ["127.0.1.1"])[1] in SHUT_OUT


def test_a_household_with_ipv6_gets_256_connections(installed):
    """It has a /64, and could come from each of its addresses."""
    addresses = [f"fd00::a:0:0:0:{n}" for n in range(1, 5)]
    for address in (*addresses, "fd00::b:0:0:0:1"):
        installed.run(f"ip address add {address}/128 dev lo nodad")
    held, answer, _ = attack(installed, 1000, addresses, to="fd00::b:0:0:0:1",
                             station="fd00::b:0:0:0:1")
    assert (held, answer) == (256, ANSWERED)
