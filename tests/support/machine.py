"""A private view of this machine, on which install.sh and the README's commands are tried."""
import contextlib
import subprocess
from pathlib import Path

import pytest
from tools import ROOT, skip

HOST = "weather.example.org"
MACHINE = ("root", "unshare", "nsenter", "ip", "git", "curl", "logrotate", "nginx", "nft",
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
SCP = """#!/bin/sh
# From that machine, which is this one.
[ "$1" = -p ] && eval cp -p "${2#root@weather.example.org:}" '"$3"'
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
echo '127.0.0.1 weather.example.org' >> /etc/hosts
echo ready
exec cat
"""


class Machine:
    """A private view of this machine: changes of its files, its network, and all processes end
    with it. systemctl, certbot and scp are stand-ins."""

    def __init__(self, folder):
        self.process = subprocess.Popen(
            ["unshare", "--mount", "--net", "--pid", "--fork", "--mount-proc", "sh", "-ec",
             SETUP.format(folder=folder)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.is_ready = self.process.stdout.readline() == "ready\n"
        if self.is_ready:
            number = self.process.pid
            self.inside = Path(f"/proc/{number}/task/{number}/children").read_text().strip()

    def run(self, script, stdin="", status=0):
        """What a shell of root there says to a script."""
        done = subprocess.run(
            ["nsenter", "-t", self.inside, "-m", "-n", "-p", "sh", "-ec", script],
            input=stdin, capture_output=True, text=True, check=False, timeout=60, env={
                "HOME": "/root", "PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "CURL_CA_BUNDLE": f"/etc/letsencrypt/live/{HOST}/fullchain.pem"})
        assert done.returncode == status, (script, done.stdout, done.stderr)
        return done.stdout

    def put(self, name, text, mode=0o755):
        self.run(f"cat > {name}; chmod {mode:o} {name}", stdin=text)

    def close(self):
        self.process.communicate()


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
        yield machine
