"""A real MicroPython REPL on a pseudo-terminal, for ampy."""
import os
import select
import subprocess
from pathlib import Path

from serialport import SerialPort

CONFIG = """API_KEY = "K3y"
SSID = "home"
WIFI_PASSWORD = "secret"
MAC_ADDRESS = ""
SERVER = "http://192.0.2.7:8000"
"""


class RawRepl(SerialPort):
    """A board for ampy; `heard` is what it printed."""

    def __init__(self, node, module):
        super().__init__()
        self.heard = b""
        script = Path(__file__).with_suffix(".mjs")
        self.node = subprocess.Popen([node, script, module], stdin=subprocess.PIPE,
                                     stdout=subprocess.PIPE, bufsize=0)

    def __exit__(self, *error):
        super().__exit__(*error)
        self.node.kill()
        self.node.wait()
        self.node.stdin.close()
        self.node.stdout.close()

    def serve(self):
        said = self.node.stdout.fileno()
        while True:
            ready = select.select([self.ours, said, self.stop_read], [], [])[0]
            if self.stop_read in ready:
                return
            if self.ours in ready:
                self.node.stdin.write(os.read(self.ours, 4096))
            if said in ready:
                data = os.read(said, 4096)
                self.heard += data
                os.write(self.ours, data)
