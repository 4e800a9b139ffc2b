"""Commands as forks of one process that has read the program.

Starts of Python took half of the processor time of the whole suite.

A message to that process has the arguments, folder and environment of a command. With it come
the command's stdin, stdout and stderr, and a pipe that tells its number and its exit status.
"""
import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

LARGEST = 100_000               # bytes of a message


class Fork:
    """A command that runs: what the tests use of subprocess.Popen."""

    def __init__(self, args, told):
        self.args, self.told, self.returncode, self.stdout = args, told, None, None
        self.pid = int(told.readline())

    def poll(self):
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout=None):
        if self.returncode is None:
            if not select.select([self.told], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout)
            with self.told:
                self.returncode = int(self.told.readline())
        return self.returncode

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)


class Forks:
    """Runs commands in forks of a process, which is started by the first of them.

    What the program does with the environment while it is read is the same for all of them.
    """

    def __init__(self, script, environment):
        self.script, self.environment, self.channel = script, environment, None

    def begin(self):
        """Coverage begins in each command, not here."""
        self.channel, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        environment = {**self.environment}
        environment.pop("COVERAGE_PROCESS_CONFIG", None)
        with other:
            self.process = subprocess.Popen(
                [sys.executable, __file__, str(self.script), str(other.fileno())],
                pass_fds=[other.fileno()], env=environment, stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE)     # as commands have them

    def open(self, args, cwd, env, stdin, stdout, stderr):
        """Start a command with these descriptors."""
        if not self.channel:
            self.begin()
        os.umask(umask := os.umask(0o077))
        message = json.dumps([args, str(cwd), env, umask]).encode()
        assert len(message) < LARGEST
        ours, theirs = os.pipe()
        socket.send_fds(self.channel, [message], [stdin, stdout, stderr, theirs])
        os.close(theirs)
        return Fork(args, open(ours, "rb", buffering=0))

    def serve(self, args, cwd, env, log):
        """Start a command that is to be heard on .stdout."""
        with open(os.devnull) as nothing, pipe() as (stdout, theirs):
            fork = self.open(args, cwd, env, nothing.fileno(), theirs, log.fileno())
        fork.stdout = os.fdopen(stdout, encoding="utf-8")
        return fork

    def run(self, args, cwd, env, stdin):
        """As subprocess.run() does."""
        with ThreadPoolExecutor(2) as pool:
            with pipe(is_read=False) as (inward, a), pipe() as (out, b), pipe() as (err, c):
                fork = self.open(args, cwd, env, a, b, c)
            said = pool.submit(read, out), pool.submit(read, err)
            with contextlib.suppress(BrokenPipeError), open(inward, "w", encoding="utf-8") as file:
                file.write(stdin)
            return subprocess.CompletedProcess(args, fork.wait(), *(s.result() for s in said))

    def close(self):
        if self.channel:
            self.channel.close()
            self.process.communicate(timeout=10)


@contextlib.contextmanager
def pipe(is_read=True):
    """Our end and the command's, which is closed here at the end of the block."""
    read, write = os.pipe()
    ours, theirs = (read, write) if is_read else (write, read)
    try:
        yield ours, theirs
    finally:
        os.close(theirs)


def read(number):
    with open(number, encoding="utf-8") as file:
        return file.read()


# -- in that process ------------------------------------------------------------------------------


def fork_each(channel):
    """Fork for each message, until there are no more. It returns in the forks."""
    while True:
        message, numbers, *_ = socket.recv_fds(channel, LARGEST, 4)
        if not message:
            os._exit(0)
        if not os.fork():           # waits for the command, so that this process need not
            channel.close()
            if command := os.fork():
                for number in (0, 1, 2, *numbers[:3]):
                    os.close(number)
                os.write(numbers[3], b"%d\n" % command)
                _, status = os.waitpid(command, 0)
                os.write(numbers[3], b"%d\n" % os.waitstatus_to_exitcode(status))
                os._exit(0)
            os.close(numbers[3])
            for wanted, number in enumerate(numbers[:3]):
                os.dup2(number, wanted)
                os.close(number)
            return json.loads(message)
        for number in numbers:
            os.close(number)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def main(script, number):
    sys.path.insert(0, os.path.dirname(script))
    import coverage  # noqa: PLC0415

    import iotserver  # noqa: PLC0415
    args, folder, environment, umask = fork_each(socket.socket(fileno=int(number)))
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    os.chdir(folder)
    os.umask(umask)
    sys.argv[:] = [script, *args]
    coverage.process_startup()
    return iotserver.main()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
