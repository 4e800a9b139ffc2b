"""A private view of this machine, on which install.sh and the guides' commands are tried: with a
stand-in for systemctl, or booted with a systemd of its own.
"""
import contextlib
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
from harness import wait_for
from tools import ROOT, SYSTEMD, skip

HOST = "weather.example.org"
MACHINE = ("root", "unshare", "nsenter", "ip", "curl", "logrotate", "nginx", "nft",
           "openssl", "systemd-sysusers")          # what a test with this fixture needs
CERTBOT = r"""#!/bin/sh
# What certbot does to a machine when the authority agrees.
set -eu
while [ $# -gt 0 ]; do
    case $1 in -w) www=$2 ;; -d) name=$2 ;; --key-type) type=$2 ;; --deploy-hook) hook=$2 ;; esac
    shift
done
[ "$type" = rsa ]
mkdir -p "$www/.well-known/acme-challenge"
echo token.thumbprint > "$www/.well-known/acme-challenge/token"
[ "$(curl -fsS "http://$name/.well-known/acme-challenge/token")" = token.thumbprint ]
RENEWED_LINEAGE=/etc/letsencrypt/live/$name
mkdir -p "$RENEWED_LINEAGE"
openssl req -x509 -newkey rsa:2048 -nodes -days 90 -subj "/CN=$name" \
    -addext "subjectAltName=DNS:$name" -keyout "$RENEWED_LINEAGE/privkey.pem" \
    -out "$RENEWED_LINEAGE/fullchain.pem" 2> /dev/null
sh -c "$hook"
"""
SSH = """#!/bin/sh
# To that machine, which is this one.
[ $# = 1 ] || { shift; exec "$@"; }
"""
SCP = """#!/bin/sh
# From and to that machine, which is this one.
for word; do words="$words ${word#root@weather.example.org:}"; done
eval exec cp "$words"
"""
SETUP = """
mount -t tmpfs tmpfs {folder}
for place in etc usr/local opt root var; do
    mkdir -p {folder}/$place/upper {folder}/$place/work
    mount -t overlay overlay -o lowerdir=/$place \
        -o upperdir={folder}/$place/upper,workdir={folder}/$place/work /$place
done
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/systemd /run/systemd/system
ip link set lo up
ip address add 203.0.113.5/32 dev lo
ip route add default dev lo src 203.0.113.5
echo '127.0.0.1 weather.example.org' >> /etc/hosts
echo ready
exec cat
"""


# A whole file system, of which this machine's is the lower layer. What this machine starts at boot
# is not started there.
HOUSE = """
mount -t tmpfs tmpfs {folder}
mkdir {folder}/upper {folder}/work {folder}/root
mount -t overlay overlay -o lowerdir=/,upperdir={folder}/upper,workdir={folder}/work {folder}/root
cd {folder}/root
rm -rf etc/systemd/system/*.wants etc/init.d/* etc/rc*.d/* var/lib/iotserver
: > etc/fstab
: > etc/machine-id
echo 'search branch.example' > etc/resolv.conf
mkdir -p opt/iotserver
cp -r {root}/iotserver.py {root}/systemd opt/iotserver
[ -e usr/bin/sudo ] || printf '#!/bin/sh\nexec "$@"\n' > usr/local/bin/sudo
chmod +x usr/local/bin/*
ip link set lo up
ip address add 192.168.1.20/32 dev lo
ip route add default dev lo src 192.168.1.20
echo ready
exec cat
"""
BOOT = """
cd {folder}/root
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys
mount -t tmpfs tmpfs sys/fs/cgroup
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs dev
for node in null zero full random urandom tty; do
    : > dev/$node
    mount --bind /dev/$node dev/$node
done
ln -s /proc/self/fd dev/fd
mkdir dev/shm dev/pts
mount -t tmpfs tmpfs dev/shm
mount -t devpts -o newinstance,ptmxmode=666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
mount -t tmpfs -o mode=755 tmpfs run
mkdir -p old
pivot_root . old
cd /
umount -l /old
exec env -i container=test PATH=/usr/sbin:/usr/bin /lib/systemd/systemd --unit=multi-user.target
"""


class Machine:
    """A private view of this machine: changes of its files, its network, and all processes end
    with it. systemctl, certbot, ssh and scp are stand-ins."""

    def __init__(self, folder):
        self.enter = ["-m", "-n", "-p"]
        self.hold(["--pid", "--mount-proc"], SETUP.format(folder=folder))

    def hold(self, spaces, script):
        """Make the view, and a process that holds it."""
        self.process = subprocess.Popen(
            ["unshare", "--mount", "--net", "--fork", *spaces, "sh", "-ec", script],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.is_ready = self.process.stdout.readline() == "ready\n"
        if self.is_ready:
            self.inside = child_of(self.process.pid)

    def run(self, script, stdin="", status=0):
        """What a shell of root there says to a script."""
        done = subprocess.run(
            ["nsenter", "-t", self.inside, *self.enter, "sh", "-ec", script],
            input=stdin, capture_output=True, text=True, check=False, timeout=60, cwd="/", env={
                "HOME": "/root", "PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "CURL_CA_BUNDLE": f"/etc/letsencrypt/live/{HOST}/fullchain.pem"})
        assert done.returncode == status, (script, done.stdout, done.stderr)
        return done.stdout

    def put(self, name, text, mode=0o755):
        self.run(f"cat > {name}; chmod {mode:o} {name}", stdin=text)

    def close(self):
        self.process.communicate()


def child_of(number):
    return Path(f"/proc/{number}/task/{number}/children").read_text().strip()


class Booted(Machine):
    """A computer of its own at home, as far as a kernel can be shared: boot() starts its systemd,
    and starts it again. Its files stay from one boot to the next."""

    def __init__(self, folder):
        self.folder, self.enter, self.init = folder, ["-a"], None
        self.cgroup = cgroup2() / f"iotserver-test-{os.getpid()}"
        self.hold([], HOUSE.format(folder=folder, root=ROOT))

    def boot(self):
        self.halt()
        self.cgroup.mkdir()
        holder = child_of(self.process.pid)

        def join():     # its systemd sees this group of processes as the root of them all
            (self.cgroup / "cgroup.procs").write_text(str(os.getpid()))
        with (self.folder / "console").open("w") as console:
            self.init = subprocess.Popen(
                ["nsenter", "-t", holder, "-m", "-n", "unshare", "--mount", "--pid", "--uts",
                 "--ipc", "--cgroup", "--fork", "sh", "-ec", BOOT.format(folder=self.folder)],
                preexec_fn=join, stdin=subprocess.DEVNULL, stdout=console, stderr=console)  # noqa: PLW1509
        wait_for(lambda: self.init.poll() is not None or self.is_up(), 20)
        if self.init.poll() is not None:
            skip(f"no systemd boots here: {(self.folder / 'console').read_text()}")
        self.run("until systemctl is-system-running --wait | grep -qE 'running|degraded'; do\n"
                 "sleep 0.1; done")

    def is_up(self):
        """Whether its systemd is there, no more the shell before it, and can be asked."""
        with contextlib.suppress(OSError):
            self.inside = child_of(self.init.pid)
            process = Path("/proc", self.inside)
            return ((process / "comm").read_text() == "systemd\n"
                    and (process / "root/run/systemd/private").exists())

    def halt(self):
        """As if somebody pulled the plug."""
        if self.init:
            if self.init.poll() is None:
                os.kill(int(self.inside), signal.SIGKILL)
            self.init.wait(20)
            self.init = None
            for path in sorted(self.cgroup.rglob("*/"), reverse=True):
                wait_for(lambda path=path: is_removed(path), 20)
            self.cgroup.rmdir()

    def close(self):
        self.halt()
        super().close()


def cgroup2():
    """Where groups of processes are made."""
    for line in Path("/proc/mounts").read_text().splitlines():
        _, place, kind, options, *_ = line.split()
        if kind == "cgroup2" and "rw" in options.split(","):
            return Path(place)
    return skip("there is no cgroup2 to write to")


def is_removed(group):
    """Remove a group of processes, once the kernel has counted the last of them out."""
    with contextlib.suppress(OSError):
        group.rmdir()
    return not group.exists()


class Guide:
    """systemd/README.md, and a machine on which its commands are typed, in their order."""

    def __init__(self, machine, first):
        text = (SYSTEMD / "README.md").read_text()
        self.parts = re.split(r"\n#+ ", text[text.index(f"\n## {first}\n"):])[1:]
        self.machine, self.folder = machine, "/root"

    def find(self, heading):
        """The part below a heading that comes next; nothing to type may stand before it."""
        while not (part := self.parts.pop(0)).startswith(heading):
            assert "```sh" not in part, part
        return part

    def follow(self, heading, stdin="", but=()):
        """Type what stands below a heading, but for some programs; what is said to that."""
        typed = "".join(re.findall(r"^```sh\n(.*?)^```", self.find(heading), re.M | re.S))
        here = [line for line in typed.splitlines() if line.split()[0] not in but]
        return self.machine.run("\n".join([f"cd {self.folder}", *here]), stdin)

    def curl(self, url, *more):
        """The status, and what came."""
        said = self.machine.run(f"curl -sS {' '.join(more)} -w ' %{{http_code}}' {url}")
        body, _, status = said.rpartition(" ")
        return int(status), body


@pytest.fixture
def machine(tmp_path):
    (tmp_path / "machine").mkdir()
    machine = Machine(tmp_path / "machine")
    with contextlib.closing(machine):
        if not machine.is_ready:
            skip(f"no private view of this machine: {machine.process.stderr.read()}")
        machine.put("/usr/local/bin/systemctl", (ROOT / "tests/support/systemctl").read_text())
        machine.put("/usr/local/bin/certbot", CERTBOT)
        machine.put("/usr/local/bin/scp", SCP)
        machine.put("/usr/local/bin/ssh", SSH)
        yield machine


@pytest.fixture
def booted(tmp_path):
    (tmp_path / "booted").mkdir()
    booted = Booted(tmp_path / "booted")
    with contextlib.closing(booted):
        if not booted.is_ready:
            skip(f"no private view of this machine: {booted.process.stderr.read()}")
        booted.boot()
        yield booted
