"""iotserver-restore: the backup that is named comes back, and root follows no link to it."""
import re

import pytest
from harness import INSIDE, update_path
from machine import MACHINE
from tools import SYSTEMD, needs

pytestmark = needs(*MACHINE)
STATE = "/var/lib/iotserver"
PLANTED = {                     # what somebody who took over the service could leave for root
    "ln -s /etc/shadow backup/iot-9.db; touch -h -d tomorrow backup/iot-9.db": False,
    "ln -s /etc/cron.d/evil restored.db": True,
    "ln -s /etc/cron.d restored.db": True,
    "rm -f before.db*; ln -s /etc/cron.d before.db": True,
    "rm iot.db; ln -s /etc/cron.d iot.db": True,
    "rm iot.db; ln -s /etc/passwd iot.db": True}     # and whether the backup came back


@pytest.fixture
def served(machine):
    """Installed, one reading stored, backed up, and a second one stored after that."""
    machine.run(f"nginx; {SYSTEMD}/install.sh; iotserver --add-station inside --mac {INSIDE.mac} "
                f"--key {INSIDE.key}")
    assert [send(machine, value) for value in (1, 2)] == ["1", "2"]
    machine.run("systemctl start iotserver-backup")
    assert send(machine, 3) == "3"
    return machine


def send(machine, value):
    return machine.run(f"curl -s http://127.0.0.1{update_path(INSIDE, value)}")


def values(machine):
    return re.findall(r",([^,]*),\d+$", machine.run("iotserver --export -"), re.M)


def as_service(machine, script):
    machine.run(f"cd {STATE}; setpriv --reuid=iotserver --regid=iotserver --clear-groups "
                f"sh -ec '{script}'")


def outside(machine):
    """What root owns and a link could point to: names, owners, modes and contents."""
    return machine.run("ls -ln --time-style=+ /etc/cron.d /etc/passwd /etc/shadow; "
                       "cat /etc/cron.d/* /etc/passwd /etc/shadow")


def test_the_newest_backup_comes_back_and_what_was_there_is_kept(served):
    assert values(served) == ["1", "2", "3"]
    assert "restoring iot-" in served.run("iotserver-restore 2> /dev/null")
    assert values(served) == ["1", "2"]
    assert send(served, 4) == "3"
    assert served.run(f"stat -c '%U %a' {STATE}/iot.db") == "iotserver 600\n"
    served.run(f"cp {STATE}/before.db /root/mine.db; chmod 600 /root/mine.db")
    served.run("iotserver-restore - < /root/mine.db 2> /dev/null")
    assert values(served) == ["1", "2", "3"]


def test_what_is_no_backup_changes_nothing(served):
    for wrong in ("iot-8.db", "- < /dev/null", "- < /etc/passwd", "--help", "../iot.db", "''x"):
        served.run(f"iotserver-restore {wrong} 2> /dev/null", status=1)
    assert values(served) == ["1", "2", "3"]
    assert send(served, 4) == "4"


def test_root_follows_no_link_in_the_services_folder(served):
    before, secret = outside(served), served.run("head -c 20 /etc/shadow")
    for planted, is_restored in PLANTED.items():
        as_service(served, planted)
        done = "restored" if is_restored else "refused"
        assert served.run("iotserver-restore > /run/said 2>&1 && echo restored || echo refused"
                          ) == f"{done}\n", served.run("cat /run/said")
        assert outside(served) == before
        assert served.run(f"grep -rlF '{secret}' {STATE} || true") == ""
        as_service(served, "rm -rf backup/iot-9.db restored.db")
    assert values(served) == ["1", "2"]
    as_service(served, next(iter(PLANTED)))     # and this is what a copy by root does:
    served.run(f"cd {STATE}; install -o iotserver $(ls -t backup/*.db | head -n 1) mine")
    assert served.run(f"grep -rlF '{secret}' {STATE}") == f"{STATE}/mine\n"
