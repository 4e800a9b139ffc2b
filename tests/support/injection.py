"""Faults made on purpose: system calls that strace watches, fails, delays or kills at; a server
that was broken by an edit; and what a power cut leaves of a file that was written but not synced.
"""
import contextlib
import http.client
import re
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor

from harness import INSIDE, SCRIPT, Live, problems_of, rows_of, update_path, wait_for
from tools import need

# -- strace ---------------------------------------------------------------------------------------


def watch(*calls):
    return "-e", f"trace={','.join(calls)}"


def inject(call, fault, when):
    """strace's flags for a fault at the calls that `when` names: 3, or 3+ for all from there."""
    return *watch(call), "-e", f"inject={call}:{fault}:when={when}"


def strace(log, *flags):
    return [need("strace"), "-f", "-y", "-o", str(log), *flags]


def from_birth(log, *flags):
    """What to put before a command, to trace it from its first call; it stays our own child."""
    return [*strace(log, *flags), "-D"]


@contextlib.contextmanager
def attached(live, log, *flags):
    """strace on a running server, until the end of the block; then the log is complete."""
    with subprocess.Popen([*strace(log, *flags), "-p", str(live.process.pid)],
                          stderr=subprocess.PIPE, text=True) as tracer:
        assert "attached" in tracer.stderr.readline()
        try:
            yield
        finally:
            tracer.send_signal(signal.SIGINT)
            tracer.wait(20)


def lines_of(log):
    """The trace of a process that has ended, without who called."""
    wait_for(lambda: re.search(r"\+\+\+ (exited|killed) .*\n$", log.read_text()), 20)
    return [line.split(maxsplit=1)[1] for line in log.read_text().splitlines()]


# -- servers --------------------------------------------------------------------------------------


@contextlib.contextmanager
def living(folder, *flags, **options):
    """A server in a folder of its own; checked at the end like those of the fixture `serve`."""
    live = Live(folder, "--rate-limit", "0", *flags, **options)
    try:
        yield live
    finally:
        live.check_end()


def broken(folder, *edits):
    """A copy of the server in which each (old, new) was exchanged: what a test has to find."""
    text = SCRIPT.read_text()
    for old, new in edits:
        assert old in text, f"the server has no {old!r} to break any more"
        text = text.replace(old, new)
    path = folder / "broken.py"
    path.write_text(text)
    return path


# -- the rule: 200 means stored, refused means it is not, asked again is answered the same --------


def tell(live, seqs):
    """Updates one after the other, each with its seq as value, until no answer comes.

    {seq: (status, body)} of those that were answered.
    """
    answers = {}
    with (contextlib.suppress(OSError, http.client.HTTPException),
          contextlib.closing(live.client()) as client):
        for seq in seqs:
            client.request("GET", update_path(INSIDE, seq, more=f"/seq={seq}"))
            response = client.getresponse()
            answers[seq] = response.status, response.read()
    return answers


def acknowledged(answers):
    return {seq: int(body) for seq, (status, body) in answers.items() if status == 200}


def stored_in(path):
    """{seq: entry} of what tell() has stored; each of them once."""
    rows = [(int(value), entry) for _, _, _, _, value, entry in rows_of(path)]
    assert len(dict(rows)) == len(rows), "something is stored twice"
    return dict(rows)


def check_rule(path, answers, seqs):
    """What is in a file after a fault is what was answered, and perhaps what was not answered."""
    stored = stored_in(path)
    assert acknowledged(answers).items() <= stored.items()
    refused = {seq for seq, (status, _) in answers.items() if status != 200}
    assert not refused & stored.keys(), "refused means nothing stored"
    assert stored.keys() <= {*seqs}
    assert problems_of(path) == []
    return stored


def check_again(server, path, seqs):
    """Asked again with the same seq: the same entry for what is stored; and all is stored once."""
    entries = stored_in(path)
    entries |= {seq: server.update(INSIDE, seq, more=f"/seq={seq}") for seq in seqs}
    assert stored_in(path) == entries
    assert sorted(entries.values()) == [*range(1, len(entries) + 1)], "no number is left out"
    assert problems_of(path) == []


def for_each(function, items):
    """Two at a time, as there are two cores; the results in order."""
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(function, items))


# -- a power cut: what was written, but not synced, is on the disk or is not, piece by piece ------

WRITES = ("openat", "pwrite64", "write", "ftruncate", "fallocate", "fdatasync", "fsync", "?unlink",
          "unlinkat", "?rename", "renameat2", "sendto")
IN_FULL = ("-xx", "-s", "70000", *watch(*WRITES))       # strace's flags: all bytes, in hex
CALL = re.compile(r"(\w+)\((.*)\) += (\d+)")
HEX = re.compile(r"[\"<]((?:\\x[0-9a-f]{2})*)[\">]")


class File:
    """Bytes that were synced, and what was done to them since."""

    def __init__(self, synced=b""):
        self.synced, self.since = synced, []        # (offset, bytes), or (length, None) for a cut

    def content(self, keep, block):
        data = bytearray(self.synced)
        for offset, written in self.since:
            if written is None:
                if keep():
                    data[offset:] = bytes(max(0, offset - len(data)))
                continue
            pieces = range(offset - offset % block, offset + len(written), block)
            for start in map(max, pieces, [offset] * len(pieces)):
                end = min(start - start % block + block, offset + len(written))
                if keep():
                    data.extend(bytes(max(0, end - len(data))))
                    data[start:end] = written[start - offset:end - offset]
        return bytes(data)

    def sync(self):
        self.synced, self.since = self.content(lambda: True, 1 << 40), []


class Disk:
    """A database and its log as a trace IN_FULL has changed them, call by call.

    The -shm is left out, as SQLite makes it anew.
    """

    def __init__(self, path):
        self.folder, self.names = str(path.parent), {path.name, path.name + "-wal"}
        self.files = {path.name: File(path.read_bytes())}
        self.synced, self.since = dict(self.files), []      # since: (name, File or None)

    def play(self, line):
        """Do what a line says; the bytes that it sent to a client, if it did that."""
        call = CALL.match(line)
        if not call:
            return b""
        name, arguments = call[1], call[2].split(", ")
        strings = [bytes.fromhex(text.replace("\\x", "")) for text in HEX.findall(call[2])]
        if name == "sendto":
            return strings[1]
        if name in {"fdatasync", "fsync"} and strings[0].decode() == self.folder:
            self.synced, self.since = dict(self.files), []
        folder, _, place = strings[name in {"openat", "unlinkat"}].decode().rpartition("/")
        if folder == self.folder and place in self.names:
            self._change(name, place, arguments, strings[-1])
        return b""

    def _change(self, call, place, arguments, data):
        file = self.files.get(place)
        if call == "openat":
            if file is None and "O_CREAT" in arguments[2]:
                self._link(place, File())
        elif call in {"unlink", "unlinkat"}:
            self._link(place, None)
        elif call == "pwrite64":
            assert len(data) == int(arguments[2]), "strace did not show all of it"
            file.since.append((int(arguments[3]), data))
        elif call == "ftruncate":
            file.since.append((int(arguments[1]), None))
        else:
            assert call in {"fdatasync", "fsync"}, f"{call} of the database cannot be replayed"
            file.sync()

    def _link(self, place, file):
        self.files[place] = file
        self.since.append((place, file))

    def cut(self, folder, keep, block=512):
        """Write to a folder what a power cut leaves; keep() tells the fate of each piece."""
        names = self.synced | {name: file for name, file in self.since if keep()}
        for name in self.names:
            (folder / name).unlink(missing_ok=True)
            if file := names.get(name):
                (folder / name).write_bytes(file.content(keep, block))
