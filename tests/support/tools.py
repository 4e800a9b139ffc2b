"""What several test files share: programs from the system, and a real server as a subprocess."""
import functools
import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
SYSTEMD = ROOT / "systemd"
IS_ROOT = os.geteuid() == 0
CI = os.environ.get("CI") == "true"


def skip(reason):
    """Skip a test, or fail it under CI=true: there a test that did not run proves nothing."""
    if CI:
        pytest.fail(f"under CI=true nothing may be skipped: {reason}", pytrace=False)
    pytest.skip(reason)


@functools.cache
def _apt_install(package):
    if shutil.which("apt-get") is None or not IS_ROOT:
        return f"{package} is not installed and only root can install it with apt-get"
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["apt-get", "-qq", "update"],
                    ["apt-get", "-qq", "install", "-y", "--no-install-recommends", package]):
        done = subprocess.run(command, capture_output=True, text=True, env=environment,
                              stdin=subprocess.DEVNULL, timeout=600, check=False)
        if done.returncode:
            return f"{' '.join(command)} failed: {done.stderr.strip()[-300:]}"
    return ""


def need(program, package=None):
    """Path of a system program, installed with apt-get on the way when we are root; else skip."""
    path = shutil.which(program)
    if path is None:
        problem = _apt_install(package or program)
        path = shutil.which(program)
        if path is None:
            skip(problem or f"{program} is not there, even after installing {package or program}")
    return path
