"""What the real-server tests share: places, free ports, waiting, and processes of our own.

Nothing here touches a process that it did not start itself.
"""

import ctypes
import os
import random
import signal
import socket
import subprocess
import sys
import time

HOST = "127.0.0.1"
REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
CACHE = os.path.join(REPOSITORY, ".cache")
PASSWORDS = {"neo4j": "secretpass", "alice": "alicepass"}

# Below the range from which the kernel takes ports for outgoing connections (32768 and up), so
# that a server which is down for a moment finds its port free when it comes back.
PORT_MIN, PORT_MAX = 20000, 32000


def free_port():
    """A port of the loopback address that nobody listens on."""
    while True:
        port = random.randint(PORT_MIN, PORT_MAX)
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
                return port
            except OSError:
                continue


def wait_until(condition, limit_s, what, pause_s=0.05):
    """Returns the first true value of condition(); an error that names `what` after limit_s."""
    deadline = time.monotonic() + limit_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise TimeoutError(f"expected within {limit_s} s: {what}")
        time.sleep(pause_s)


def accepts(port):
    """Whether somebody accepts connections on that port of the loopback address."""
    try:
        with socket.create_connection((HOST, port), timeout=1):
            return True
    except OSError:
        return False


def end_in_order_on_sigterm():
    """SIGTERM unwinds the program, so that what it started is ended as well."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


LIBC = ctypes.CDLL(None)
PR_SET_PDEATHSIG = 1


def end_with_parent():
    """Runs in a child before its program: no server outlives a killed test."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Process:
    """A program of ours in its own process group, its output in one file.

    To be started by the main thread: the kernel takes the end of the thread for the parent's end.
    """

    def __init__(self, argv, log_path, env=None, cwd=None):
        self.log_path = log_path
        self.log_start = os.path.getsize(log_path) if os.path.exists(log_path) else 0
        with open(log_path, "ab") as log:
            self.child = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env, cwd=cwd,
                start_new_session=True, preexec_fn=end_with_parent)

    def output(self):
        """What this run of the program has written so far."""
        with open(self.log_path, "rb") as log:
            log.seek(self.log_start)
            return log.read().decode(errors="replace")

    def running(self):
        return self.child.poll() is None

    def wait_for(self, condition, limit_s, what):
        """Waits for condition(output) and gives up at once when the program has ended."""
        def look():
            if not self.running():
                raise RuntimeError(
                    f"expected {what}, but the program ended with {self.child.returncode}:\n"
                    + self.output()[-3000:])
            return condition(self.output())
        return wait_until(look, limit_s, what)

    def end(self, limit_s):
        """SIGTERM, then after limit_s SIGKILL. Returns the exit status."""
        if self.running():
            self.child.send_signal(signal.SIGTERM)
            try:
                self.child.wait(limit_s)
            except subprocess.TimeoutExpired:
                self.kill()
        return self.child.returncode

    def kill(self):
        """SIGKILL, and nothing of the process is left when this returns."""
        if self.running():
            self.child.kill()
        self.child.wait()
