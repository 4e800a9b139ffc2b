"""A pseudo-terminal in the place of a board's USB port."""
import os
import pty
import threading
import tty


class SerialPort:
    """Use as a context manager: `port` is what a tool is given; a thread runs serve() on `ours`.

    A subclass's serve() returns as soon as `stop_read` can be read.
    """

    def __init__(self):
        self.ours, self.theirs = pty.openpty()
        tty.setraw(self.theirs)
        self.port = os.ttyname(self.theirs)
        self.stop_read, self.stop_write = os.pipe()
        self.thread = threading.Thread(target=self.serve)

    def serve(self):
        raise NotImplementedError

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *error):
        os.write(self.stop_write, b"!")
        self.thread.join()
        for descriptor in (self.ours, self.theirs, self.stop_read, self.stop_write):
            os.close(descriptor)
