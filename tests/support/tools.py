"""Programs of the system that tests need: which package has them, and what they are for.

A test says what it needs with @needs("nginx", "root"). What is not here is installed before the
first test, once it has been said what and why; where that cannot be, the test is skipped.
"""
import contextlib
import fcntl
import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
CACHE = ROOT / ".cache"
SYSTEMD = ROOT / "systemd"
IS_ROOT = os.geteuid() == 0
CI = os.environ.get("CI") == "true"
PROGRAMS = {                    # program: Debian's package, what the tests do with it
    "caddy": ("caddy", "stands in front of the server, as the guide says"),
    "chromium": ("chromium", "shows the page, as a phone does"),
    "curl": ("curl", "sends what ThingSpeak's documentation and the guide tell to send"),
    "faketime": ("faketime", "moves the clock under a running server"),
    "g++": ("g++", "compiles the Arduino sketch of the guide"),
    "influxd": ("influxdb", "is an engine that readings are forwarded to"),
    "ip": ("iproute2", "makes a private network, to install in"),
    "logrotate": ("logrotate", "turns the log of nginx"),
    "nft": ("nftables", "limits connections of an address before nginx sees them"),
    "nginx": ("nginx-light", "stands in front of the server"),
    "node": ("nodejs", "runs a ThingSpeak client, and a board's prompt"),
    "npm": ("npm", "gets what runs in node and in the page, into .cache/"),
    "nsenter": ("util-linux", "runs commands where the server is installed on trial"),
    "openssl": ("openssl", "makes certificates"),
    "prometheus": ("prometheus", "asks for the server's metrics"),
    "promtool": ("prometheus", "judges metrics and alert rules"),
    "/usr/bin/python3": ("python3", "is what the systemd units start"),
    "setpriv": ("util-linux", "runs a command as another user"),
    "shellcheck": ("shellcheck", "reads install.sh"),
    "slowhttptest": ("slowhttptest", "attacks the server with slow clients"),
    "sqlite3": ("sqlite3", "looks into the database of a running server"),
    "strace": ("strace", "fails, delays and records single system calls"),
    "systemd-analyze": ("systemd", "reads the units"),
    "systemd-sysusers": ("systemd", "makes the user that the server runs as"),
    "victoria-metrics": ("victoria-metrics", "is another such engine"),
    "vmagent": ("victoria-metrics", "hands readings on to several of its nodes"),
    "unshare": ("util-linux", "gives a test disks and a network of its own"),
}
OTHERS = {"root", "MicroPython", "PyPI"}     # the two last ones are put into .cache/
asked_for = None                # what the test that runs has said it needs


def source_of(module):
    return Path(module.__file__).read_text(encoding="utf-8")


def needs(*names):
    """Mark a test, or as `pytestmark` a file, with what it needs: PROGRAMS and OTHERS."""
    assert {*names} <= {*PROGRAMS, *OTHERS}, names
    return pytest.mark.needs(*names)


def needs_of(item):
    """All that a collected test needs."""
    return {name for mark in item.iter_markers("needs") for name in mark.args}


def skip(reason):
    """Skip a test, or fail it under CI=true: there a test that did not run proves nothing."""
    if CI:
        pytest.fail(f"under CI=true nothing may be skipped: {reason}", pytrace=False)
    pytest.skip(reason)


def begin(item):
    """Before a test and its fixtures: skip it if it lacks something."""
    global asked_for    # noqa: PLW0603
    asked_for = needs_of(item)
    if "root" in asked_for and not IS_ROOT:
        skip("only root can do this")
    for name in sorted(asked_for & {*PROGRAMS}):
        need(name)


def need(program):
    """Path of a program that the test is marked with."""
    assert asked_for is None or program in asked_for, f"not marked with @needs({program!r})"
    path = shutil.which(program)
    if path is None:
        skip(f"{program} is not here; Debian has it in {PROGRAMS[program][0]}")
    return path


# -- installing -----------------------------------------------------------------------------------


@contextlib.contextmanager
def one_at_a_time():
    """Several runs may lack the same things."""
    CACHE.mkdir(exist_ok=True)
    with (CACHE / "install.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@one_at_a_time()
def install(programs, say, may_install):
    """Install what is missing, and say so before."""
    missing = sorted(name for name in programs & {*PROGRAMS} if not shutil.which(name))
    if not missing:
        return
    packages = sorted({PROGRAMS[name][0] for name in missing})
    say("Tests need programs that this machine lacks:")
    for name in missing:
        package, purpose = PROGRAMS[name]
        say(f"  {name} (in Debian's {package}) {purpose}")
    if not may_install:
        say("Nothing is installed, and their tests are skipped, as --no-install asks.")
    elif not (IS_ROOT and shutil.which("apt-get")):
        say(f"Their tests are skipped. As root: apt-get install {shlex.join(packages)}")
    else:
        say(f"Installing with apt-get: {' '.join(packages)}")
        say(_apt_install(packages))


def _apt_install(packages):
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}

    def run(*command):
        return subprocess.run(command, capture_output=True, text=True, env=environment,
                              stdin=subprocess.DEVNULL, timeout=900, check=False)
    updated = run("apt-get", "-qq", "update")
    there = [name for name in packages if run("apt-cache", "show", name).returncode == 0]
    done = run("apt-get", "-qq", "install", "-y", "--no-install-recommends", *there)
    return (updated.stderr + done.stderr).strip()[-600:] or "Installed."


@one_at_a_time()
def downloaded(folder, *commands):
    """A folder in .cache/ that package managers fill, once for all runs; {folder} is where to."""
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as partial:
            for command in commands:
                words = [str(word).format(folder=partial + "/new") for word in command]
                done = subprocess.run(words, capture_output=True, text=True, timeout=280,
                                      check=False, stdin=subprocess.DEVNULL)
                if done.returncode:
                    skip(f"{shlex.join(words)} failed: {done.stderr.strip()[-300:]}")
            os.rename(partial + "/new", folder)
    return folder


def from_npm(name, *packages):
    """The folder node_modules with these packages, and those that they need."""
    return downloaded(CACHE / name, [
        need("npm"), "install", "--silent", "--no-audit", "--no-fund", "--prefix", "{folder}",
        *packages]) / "node_modules"
