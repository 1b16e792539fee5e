"""A boltmux of ours in front of a real server: start, stop by SIGTERM, and its metrics.

Owns the process and its options. Who starts one with `with` gets it drained and ended, and an error
if it did not end in order.
"""

import os
import re
import urllib.request

from support import CACHE, HOST, PASSWORDS, Process, accepts, free_port

READY_LIMIT_S = 20  # It is ready in milliseconds; a busy machine may need seconds.
DRAIN_LIMIT_S = 45  # `timeouts.drain` is 30 s by default.

METRIC = re.compile(r"^([a-zA-Z_:][a-zA-Z0-9_:]*(?:\{[^}]*\})?) (\S+)")


class Proxy:
    """`options` are keys of the configuration, such as {"pool.size": 4}; `flags` other words.

    `scheme` is how it speaks to the server: bolt+s for TLS.
    """

    def __init__(self, binary, server_port, options=None, name="boltmux", flags=(),
                 scheme="bolt"):
        self.binary = os.path.abspath(binary)
        self.server_port = server_port
        self.port = free_port()
        self.admin_port = free_port()
        self.options = {"pool.size": 4, "shards": 1, **(options or {})}
        self.flags = flags
        self.scheme = scheme
        self.process = None
        os.makedirs(os.path.join(CACHE, "run"), exist_ok=True)
        self.log_path = os.path.join(CACHE, "run", f"{name}.log")

    @property
    def uri(self):
        return f"bolt://{HOST}:{self.port}"

    def start(self):
        argv = [
            self.binary, "--bind", f"{HOST}:{self.port}",
            "--uri", f"{self.scheme}://{HOST}:{self.server_port}",
            "--user", "neo4j", "--pass", PASSWORDS["neo4j"],
            "--set", f"admin.bind={HOST}:{self.admin_port}", *self.flags]
        for key, value in self.options.items():
            argv += ["--set", f"{key}={value}"]
        self.process = Process(argv, self.log_path)
        ready = f"{HOST}:{self.port}"
        self.process.wait_for(
            lambda text: ready in text and accepts(self.port), READY_LIMIT_S,
            f"boltmux to write that it accepts clients on {ready}")
        return self

    def stop(self):
        """Drains and ends it. Returns the exit status, 0 after a clean drain."""
        if self.process is None:
            return 0
        status = self.process.end(DRAIN_LIMIT_S)
        self.process = None
        return status

    def end_in_order(self):
        """Ends it; an error unless it ran until now, did not panic, and ends with 0."""
        process, running = self.process, self.running()
        status = self.stop()
        output = process.output() if process is not None else ""
        if not running:
            raise AssertionError(f"expected boltmux to be running still:\n{output[-2000:]}")
        if "panicked" in output:
            raise AssertionError(f"boltmux panicked, see {self.log_path}")
        if status != 0:
            raise AssertionError(f"expected boltmux to end with 0, it ended with {status}")

    def running(self):
        return self.process is not None and self.process.running()

    def output(self):
        return self.process.output() if self.process is not None else ""

    def metrics(self):
        """The counters as {'name{label="value"}': number}."""
        address = f"http://{HOST}:{self.admin_port}/metrics"
        with urllib.request.urlopen(address, timeout=5) as answer:
            text = answer.read().decode()
        found = (METRIC.match(line) for line in text.splitlines())
        return {match[1]: float(match[2]) for match in found if match}

    def __enter__(self):
        return self.start()

    def __exit__(self, kind, *_):
        # Who has stopped it has looked at how it ended; an error before that is told instead.
        if kind is None and self.process is not None:
            self.end_in_order()
        else:
            self.stop()
