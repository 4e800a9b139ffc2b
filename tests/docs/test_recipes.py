"""What README.md tells its readers to type, typed: it says what the page says that it says."""
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tools import ROOT, needs

pytestmark = needs("curl")
README = (ROOT / "README.md").read_text(encoding="utf-8")
VARIES = (                      # what is another on each machine and in each run
    r"\d{4}-\d\d-\d\d(T[\d:.]+Z)?", r"\b\d{13}\b", r"(?<=iotserver )\S+(?= serves)",
    r"(?<=from )\S+(?=iot\.db)", r"(?<=://)[\d.]+")


def conversations():
    """(command, what it says) of the console blocks, in their order."""
    for block in re.findall(r"^```console\n(.*?)^```", README, re.MULTILINE | re.DOTALL):
        for talk in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, told = talk.split("\n", 1)
            while command.count("'") % 2:
                line, told = told.split("\n", 1)
                command += "\n" + line
            yield command, told


def plain(text):
    """Without what varies, and without white space: the page wraps long lines."""
    for pattern in VARIES:
        text = re.sub(pattern, "?", text)
    return "".join(text.split())


class Reader:
    """Somebody in a folder with iotserver.py and nothing else, with two terminals."""

    def __init__(self, folder):
        (folder / "iotserver.py").write_bytes((ROOT / "iotserver.py").read_bytes())
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]
        self.folder, self.server = folder, None
        self.environment = {**os.environ, "IOTSERVER_PORT": str(self.port),
                            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

    def type(self, command):
        command = command.replace(":8000", f":{self.port}")
        if command == "python3 iotserver.py":
            return self.serve()
        done = subprocess.run(["sh", "-ec", command], cwd=self.folder, env=self.environment,
                              capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        return done.stdout.replace(f":{self.port}", ":8000")

    def serve(self):
        self.server = subprocess.Popen(
            [sys.executable, "iotserver.py"], cwd=self.folder, env=self.environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        return self.server.stdout.readline().replace(f":{self.port}", ":8000")

    def stop(self):
        if self.server:
            self.server.terminate()
            self.server.communicate(timeout=30)
            self.server = None


@pytest.fixture
def reader(tmp_path):
    reader = Reader(tmp_path)
    yield reader
    reader.stop()


def test_examples_say_what_the_page_says(reader):
    """From the first station to the export, each on top of the one before; and the verdict."""
    talks = list(conversations())
    assert len(talks) >= 11
    for command, told in talks:
        said = reader.type(command)
        assert not told or plain(said) == plain(told), command
        if "--stations" in command:             # with which step 4 ends
            page = re.sub("<.*?>", "", reader.type("curl http://127.0.0.1:8000/"))
            verdict, = re.findall(r"says \*(.*?)\*", README)
            assert verdict in " ".join(page.split())
            example, = re.findall(r'`({"verdicts".*?)`', README, re.DOTALL)
            assert plain(reader.type("curl http://127.0.0.1:8000/api/verdict")) == plain(example)


def test_recipes_keep_the_readings(reader):
    """Those of Keeping it running, in their order; the restore with the server stopped."""
    for command, _ in list(conversations())[:5]:
        reader.type(command)
    table = README.split("\n## Keeping it running\n")[1].split("\n## ")[0]
    recipes = {cells[1].strip(): re.findall("`([^`]+)`", cells[2])
               for cells in (line.split("|") for line in table.splitlines())
               if len(cells) == 5 and "`" in cells[2]}
    assert set(recipes) == {"prune", "back up", "restore", "upgrade", "move", "correct",
                            "have CSV"}
    assert "0 readings" in reader.type(*recipes.pop("prune"))
    assert "2 readings, " in reader.type(*recipes.pop("back up"))
    reader.stop()
    assert reader.type("\n".join(recipes.pop("restore"))).strip() == "ok"
    reader.type("python3 iotserver.py")
    for commands in recipes.values():
        reader.type("\n".join(commands))
    again = reader.type("python3 iotserver.py --import all.csv")
    assert "imported 0 readings; 2 were there already" in again
