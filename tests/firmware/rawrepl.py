"""A real MicroPython REPL on a pseudo-terminal, for ampy."""
import os
import pty
import select
import subprocess
import threading
import tty
from pathlib import Path


class RawRepl:
    """Use as a context manager; `port` is what ampy is given, `heard` what the board printed."""

    def __init__(self, node, module):
        self.ours, self.theirs = pty.openpty()
        tty.setraw(self.theirs)
        self.port = os.ttyname(self.theirs)
        self.heard = b""
        script = Path(__file__).with_suffix(".mjs")
        self.node = subprocess.Popen([node, script, module], stdin=subprocess.PIPE,
                                     stdout=subprocess.PIPE, bufsize=0)
        self.stop_read, self.stop_write = os.pipe()
        self.thread = threading.Thread(target=self.bridge)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *error):
        os.write(self.stop_write, b"!")
        self.thread.join()
        self.node.kill()
        self.node.wait()
        self.node.stdin.close()
        self.node.stdout.close()
        for descriptor in (self.ours, self.theirs, self.stop_read, self.stop_write):
            os.close(descriptor)

    def bridge(self):
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
