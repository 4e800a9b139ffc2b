"""install.sh on a computer that has booted: a real systemd runs the units with their sandbox,
at home and behind nginx.
"""
import re

import pytest
from machine import MACHINE, Guide
from tools import SYSTEMD, needs

pytestmark = needs(*MACHINE, "systemd-analyze")
DROPLET = "/opt/iotserver/systemd/install.sh"
INSTALL = f"{DROPLET} --home"
ADDRESS = "192.168.1.20"
UNITS = ["iotserver.socket", "iotserver.service", "iotserver-backup.timer",
         "iotserver-prune.timer"]


@pytest.fixture
def home(booted):
    """Installed, with one station; send(value) sends a reading as that station."""
    booted.said = booted.run(f"{INSTALL} 2> /dev/null")
    register, = re.findall(r"^ +sudo (iotserver --add-station .*)$", booted.said, re.M)
    key = re.search('API_KEY = "(.*)"', booted.run(register))[1]
    server, = re.findall('SERVER = "(.*)"', booted.said)

    def send(value):
        return booted.run(f"curl -sS -m 20 {server}/update/API_key={key}/mac=outside/field=1/"
                          f"data={value}")
    booted.send = send
    return booted


def status_of(machine, host, address=ADDRESS):
    return machine.run(f"curl -s -m 20 -o /dev/null -w '%{{http_code}}' -H 'Host: {host}' "
                       f"'http://{address}/verdict.txt'")


def values_of(machine):
    return re.findall(r",([^,]*),\d+$", machine.run("iotserver --export -"), re.M)


def test_what_install_says_is_where_phone_and_stations_find_the_server(home):
    assert f"    http://{ADDRESS}/" in home.said
    assert home.send(20.5) == "1"
    for address in (ADDRESS, "127.0.0.1", "[::1]"):
        assert home.run(f"curl -s -m 20 'http://{address}/healthz'") == "ok"
    assert "20.5" in home.run(f"curl -s -m 20 http://{ADDRESS}/")
    names = {"raspberrypi": "200", "raspberrypi.local": "200", "pi.fritz.box": "200",
             "pi.branch.example": "200",        # which this computer's resolv.conf searches
             "evil.example": "403"}
    assert {name: status_of(home, name) for name in names} == names
    assert status_of(home, "evil.example", "[::ffff:192.168.1.20]") == "403"


def test_it_comes_back_after_a_crash_and_after_a_power_cut(home):
    assert home.send(1) == "1"
    home.run("systemctl kill --signal=KILL iotserver.service")
    assert home.send(2) == "2"                  # it waited: the socket was there all the time
    assert home.run("systemctl show --property NRestarts iotserver") == "NRestarts=1\n"
    home.boot()
    assert home.run(f"systemctl is-active {' '.join(UNITS)}").split() == ["active"] * len(UNITS)
    assert home.send(3) == "3"
    assert values_of(home) == ["1", "2", "3"]


def test_it_backs_up_and_prunes_and_is_confined(home):
    home.send(1)
    home.run("systemctl start iotserver-backup iotserver-prune")
    journal = "journalctl --unit iotserver-prune --output cat"
    assert "nothing is pruned: IOTSERVER_PRUNE_AGE is not set" in home.run(journal)
    home.run("""echo IOTSERVER_PRUNE_AGE=2w >> /etc/iotserver.conf
                systemctl start iotserver-prune""")
    assert "deleted 0 readings older than 2w" in home.run(journal)
    assert home.run("cd /var/lib/iotserver; stat -c %U backup/*.db iot.db").split() == [
        "iotserver"] * 2
    home.run("iotserver-restore 2> /dev/null")
    assert (values_of(home), home.send(2)) == (["1"], "2")
    facts = home.run("""number=$(systemctl show --value --property MainPID iotserver)
        ps -o user= -p $number; grep -E '^(CapEff|NoNewPrivs|Seccomp):' /proc/$number/status
        [ "$(readlink /proc/1/ns/net)" = "$(readlink /proc/$number/ns/net)" ] || echo apart""")
    assert facts.split() == ["iotserver", "CapEff:", "0" * 16, "NoNewPrivs:", "1", "Seccomp:", "2",
                             "apart"]
    assert home.run("journalctl --unit iotserver --priority warning --quiet") == ""


def test_messages_are_carried_by_the_other_user(home):
    """The courier's unit, under a real sandbox: it reads its settings, and finds the server."""
    home.run("""echo 'IOTSERVER_NOTIFY="json://127.0.0.1:9/x"' >> /etc/iotserver-courier.conf
                systemctl enable --now iotserver-courier
                for _ in $(seq 100); do
                    pid=$(systemctl show --value -p MainPID iotserver-courier)
                    # Before it becomes our program, the process is systemd's and root's.
                    grep -q courier "/proc/$pid/cmdline" && ls -l "/proc/$pid/fd" |
                        grep -q socket && break
                    sleep 0.1
                done""")
    assert home.run("ps -o user:32= -p $(systemctl show --value -p MainPID iotserver-courier)"
                    ).strip() == "iotserver-courier"


def test_installing_twice_restarts_nothing_and_an_upgrade_does(home):
    def pid():
        return home.run("systemctl show --property MainPID iotserver")
    before = pid()
    assert home.run(INSTALL).splitlines()[0] == "nothing to do"
    assert pid() == before
    home.run("sed -i 's/^__version__ = \"/&next-/' /opt/iotserver/iotserver.py")
    assert "systemctl restart iotserver.service" in home.run(f"{INSTALL} 2> /dev/null")
    assert pid() != before
    assert home.send(1) == "1"


def test_what_is_installed_but_not_what_runs_is_put_right(booted):
    """As after an interruption: files are there, and nothing was started, or restarted."""
    assert "systemctl" not in booted.run(f"DESTDIR=/ {INSTALL} 2> /dev/null")
    said = booted.run(f"{INSTALL} 2> /dev/null").splitlines()
    assert [f"systemctl enable --now {unit}" in said for unit in UNITS] == [True] * len(UNITS)
    assert booted.run(f"curl -s -m 20 http://{ADDRESS}/healthz") == "ok"
    assert booted.run(f"{INSTALL} 2> /dev/null").startswith("nothing to do\n")
    booted.run("""systemctl disable --now iotserver-prune.timer 2> /dev/null
                  cd /opt/iotserver; echo '# next' >> systemd/home.socket
                  sed -i 's/^__version__ = "/&next-/' iotserver.py""")
    booted.run(f"DESTDIR=/ {INSTALL} 2> /dev/null")
    said = booted.run(f"{INSTALL} 2> /dev/null").splitlines()
    assert said[:2] == ["systemctl daemon-reload",
                        "systemctl restart iotserver.socket iotserver.service"]
    assert booted.run(f"curl -s -m 20 http://{ADDRESS}/healthz") == "ok"
    assert "iotserver next-" in booted.run("journalctl --unit iotserver --output cat")
    assert booted.run("systemctl is-enabled iotserver-prune.timer || true") == "disabled\n"
    assert booted.run(f"{INSTALL} 2> /dev/null").startswith("nothing to do\n")


def test_what_the_version_before_had_switched_on_stays_off_if_you_switched_it_off(home):
    """Version 2.0 kept no list of it."""
    home.run("""rm /usr/local/lib/iotserver/enabled
                systemctl disable --now iotserver-backup.timer 2> /dev/null
                systemctl stop iotserver.socket iotserver.service
                sed -i 's/^__version__ = "/&next-/' /opt/iotserver/iotserver.py""")
    assert "systemctl" not in home.run(f"{INSTALL} 2> /dev/null")
    assert home.run("systemctl is-active iotserver-backup.timer iotserver.socket || true"
                    ) == "inactive\n" * 2


def test_removed_it_keeps_the_data_until_it_is_installed_again(home):
    home.send(21)
    home.run(f"{INSTALL} --remove 2> /dev/null")
    home.run(f"curl -s http://{ADDRESS}/healthz", status=7)
    home.boot()
    home.run(f"curl -s http://{ADDRESS}/healthz", status=7)
    assert home.run("systemctl list-unit-files 'iotserver*' --no-legend || true") == ""
    home.run(f"{INSTALL} 2> /dev/null")
    assert (values_of(home), home.send(22)) == (["21"], "2")


def test_a_port_that_is_taken_is_said_before_anything_is_changed(booted):
    booted.run("setsid python3 -m http.server 80 > /dev/null 2>&1 &\n"
               "until curl -s http://127.0.0.1/ > /dev/null; do sleep 0.1; done")
    booted.run(f"{INSTALL} 2> /run/said", status=1)
    said = booted.run("cat /run/said")
    assert "another program uses port 80" in said
    assert "python3" in booted.run(re.search(r"which one: (.*)", said)[1])
    assert booted.run("systemctl list-unit-files 'iotserver*' --no-legend || true") == ""


def test_the_wrapper_asks_for_root_itself(home):
    home.put("/usr/local/bin/sudo", "#!/bin/sh\necho sudo \"$@\"\n")
    assert home.run("setpriv --reuid=nobody --clear-groups iotserver --label inside 2 'a b'") == (
        "sudo /usr/local/bin/iotserver --label inside 2 a b\n")


def test_the_socket_differs_from_the_droplets_in_who_may_connect():
    home, droplet = ({line for line in (SYSTEMD / name).read_text().splitlines()
                      if "=" in line and line[0] != "#"}
                     for name in ("home.socket", "iotserver.socket"))
    assert {line.partition("=")[0] for line in home ^ droplet} == {
        "Description", "ListenStream", "SocketUser", "SocketGroup", "SocketMode"}


def test_the_guide_is_followed_at_home(booted):
    """All that is to be typed there, that in its tables too, in its order."""
    booted.put("/usr/local/bin/nano", "#!/bin/sh\ntrue\n")
    guide = Guide(booted, "At home")
    guide.folder = "/opt/iotserver"
    page = guide.parts[1]
    said = re.sub(" or http://.*", "", guide.follow("Install it"))
    printed, = re.findall(r"^```text\n(.*?)^```", page, re.M | re.S)
    assert printed in said
    said = guide.follow("Register your stations")
    for curl in re.findall(r"^curl -H .*$", said, re.M):
        assert booted.run(curl) == "1"
    for delete in re.findall(r"^iotserver --delete-readings .*\\\n.*$", said, re.M):
        assert booted.run(delete).endswith("deleted 1 readings\n")
    assert guide.follow("Give it an address") == ""
    table = guide.parts[0]
    said = guide.follow("Everyday commands")
    assert said.endswith("ok\n")
    cells = [line.split("|")[2:4] for line in table.splitlines() if line.startswith("| ")]
    commands = [code for row in cells for code in re.findall("`([^`]+)`", "|".join(row))
                if re.match("sudo|journalctl", code)]
    assert len(commands) == 8
    for command in commands:
        booted.run(f"cd /opt/iotserver; {command.replace('iot-3.db', 'iot-$(date +%u).db')}")
    booted.run(f"curl -s http://{ADDRESS}/healthz", status=7)       # the last one removed it
    booted.run("test -s /var/lib/iotserver/iot.db")


# -- behind a proxy of one's own ------------------------------------------------------------------

SHOP = 'server { listen 80 default_server; location / { return 200 "shop"; } }'


def test_the_guide_for_an_nginx_that_has_sites_is_followed(booted):
    """Port 80 is taken: the installation leaves it, and all sites, alone."""
    booted.put("/etc/nginx/conf.d/shop.conf", SHOP, 0o644)
    booted.run("rm -f /etc/nginx/sites-enabled/default; systemctl enable --now nginx")
    sites = "cd /etc/nginx; find . -type f -exec md5sum {} + | sort"
    before = booted.run(sites)
    guide = Guide(booted, "Behind your own nginx or Caddy")
    page = guide.parts[0]
    assert "http://" not in guide.follow("Behind your own nginx or Caddy")
    assert booted.run(sites) == before
    path, command = re.search("as `(/etc/nginx/.*?)`, then type `(.*?)`", page).groups()
    booted.put(path, re.search(r"(?ms)^```nginx\n(.*?)^```", page)[1], 0o644)
    booted.run(f"{command} 2> /dev/null")
    curl = f"curl -s -m 20 --retry 9 --retry-all-errors http://{ADDRESS}"
    named = "-H 'Host: weather.example.org'"
    # nginx says that it has read its new site before its workers have.
    booted.run(f'until [ "$({curl}/healthz {named})" = ok ]; do sleep 0.1; done')
    said = booted.run("iotserver --add-station outside --role outside --mac outside")
    key = re.search('API_KEY = "(.*)"', said)[1]
    assert 'SERVER = "http://weather.example.org"' in said
    update = f"/update/API_key={key}/mac=outside/field=1/data=20"
    assert [booted.run(f"{curl}{update} {name}") for name in (named, "")] == ["1", "shop"]
    booted.boot()
    assert booted.run(f"{curl}{update} {named}") == "2"
    booted.run(f"curl -s -m 5 http://{ADDRESS}:8000/healthz", status=7)


# -- behind nginx ---------------------------------------------------------------------------------


def test_the_units_of_a_droplet_run_after_each_boot(booted):
    booted.run(f"systemctl enable --now nginx; {DROPLET} 2> /dev/null")
    for _ in range(2):
        # nginx says that it has read its new site before it listens there.
        assert booted.run("curl -sk -m 20 --retry 20 --retry-delay 1 --retry-connrefused "
                          f"https://{ADDRESS}/healthz") == "ok"
        for unit in (*UNITS, "iotserver-limit.service", "iotserver-log.timer"):
            assert booted.run(f"systemctl is-active {unit}") == "active\n"
        booted.run("systemctl start iotserver-backup iotserver-prune iotserver-log")
        assert "count over 256" in booted.run("nft list table inet iotserver")
        booted.boot()
    booted.run(f"{INSTALL} 2> /run/said", status=1)
    assert booted.run("cat /run/said").endswith(f"To remove that: {DROPLET} --uninstall\n")
    booted.run(f"{DROPLET} --uninstall 2> /dev/null; systemctl disable --now nginx")
    booted.run(f"{INSTALL} 2> /dev/null; curl -sf -m 20 http://{ADDRESS}/healthz")
