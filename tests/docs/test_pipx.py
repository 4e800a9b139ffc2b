"""`pipx install .`, as README.md promises it, on a copy of what the repository has."""
import os
import shutil
import subprocess
import sys
import urllib.request

import pytest
from tools import ROOT, needs

import iotserver

pytestmark = needs("PyPI")


def run(*words, folder, **environment):
    done = subprocess.run([*map(str, words)], cwd=folder, env={**os.environ, **environment},
                          capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, (words, done.stdout, done.stderr)
    return done.stdout


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """The command that the README's line makes: pipx is where pip has put it."""
    folder = tmp_path_factory.mktemp("pipx")
    source = folder / "iotserver"
    source.mkdir()
    for name in ("iotserver.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    run(sys.executable, "-m", "venv", folder / "venv", folder=folder)
    bin = folder / "venv/bin"
    run(bin / "pip", "install", "--quiet", "--disable-pip-version-check", "pipx", folder=folder)
    line = "pipx install ."
    assert f"`{line}`" in (ROOT / "README.md").read_text(encoding="utf-8")
    run("sh", "-c", line, folder=source, PATH=f"{bin}:{os.environ['PATH']}",
        PIPX_HOME=str(folder / "home"), PIPX_BIN_DIR=str(folder / "bin"),
        PIPX_MAN_DIR=str(folder / "man"))
    return folder / "bin" / "iotserver"


def test_it_answers_and_registers_in_the_folder_where_it_is_typed(command, tmp_path):
    assert run(command, "--version", folder=tmp_path) == f"iotserver {iotserver.__version__}\n"
    said = run(command, "--add-station", "attic", "--mac", "attic", folder=tmp_path)
    assert "its API key, shown only now: " in said
    assert "\niotserver --host 0.0.0.0\n" in said       # what one types next is that command
    assert [path.name for path in tmp_path.glob("*.db")] == ["iot.db"]
    assert "attic" in run(command, "--stations", folder=tmp_path)


def test_it_serves(command, tmp_path):
    server = subprocess.Popen([command, "--port", "0"], cwd=tmp_path, stdout=subprocess.PIPE,
                              text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    try:
        address = server.stdout.readline().split(" serves ")[1].split()[0]
        with urllib.request.urlopen(f"{address}healthz", timeout=30) as answer:
            assert answer.read() == b"ok"
        server.send_signal(2)
        assert server.wait(30) == 0
    finally:
        server.kill()
        server.communicate()
