"""The programs of a comparison: server, proxies, load generator. Started here, ended here."""

import copy
import json
import os
import random
import resource
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass

import bolt
import machine

HOST = "127.0.0.1"
USER = "neo4j"
PASSWORD = "test-password"
START_LIMIT_S = 15
PORTS = (20000, 32000)
# More connections than any shape opens, so that HAProxy's own limit is not what is measured.
CONNECTIONS_MAX = 60000
BENCHES = ["wire", "relay"]

HAPROXY = """\
global
    nbthread {threads}
    maxconn {maxconn}
{tuning}
defaults
    mode tcp
    timeout connect 5s
    timeout client 1h
    timeout server 1h
{options}
listen bolt
    bind {host}:{port} backlog 65535{bind}
    server backend {server}
"""


def raise_files_limit():
    """As many files as this user may have; children inherit it. Returns the number."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def require(*commands):
    missing = [command for command in commands if shutil.which(command) is None]
    if missing:
        raise SystemExit(f"not found: {', '.join(missing)} (tests/install packages fetches what "
                         "Debian has, where root)")


def free_port():
    """A free port below those that the kernel gives to outgoing connections, which thousands of
    clients use up."""
    while True:
        port = random.randint(*PORTS)
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
                return port
            except OSError:
                continue


def is_open(port):
    try:
        socket.create_connection((HOST, port), timeout=1).close()
        return True
    except OSError:
        return False


def parts_meant(only, into, counts, names):
    """The parts that --only means, and what is wrong with these options; `counts` by name."""
    wrong, beginnings = [], only.split(",") if only else [""]
    wrong += [f"{name} {count}: expected 1 or more" for name, count in counts.items()
              if count is not None and count < 1]
    if into is not None and not into.endswith(".md"):
        wrong.append(f"--into {into}: expected a name that ends in .md")
    # A whole name means that part alone: auto-1 is not auto-16.
    meant = {each: [name for name in names if name == each or each not in names
                    and name.startswith(each)] for each in beginnings}
    wrong += [f"--only {each}: expected beginnings of {', '.join(names)}"
              for each, found in meant.items() if not found]
    return [name for name in names if any(name in found for found in meant.values())], wrong


def end_in_order_on_sigterm():
    """SIGTERM unwinds the program, so that what it started is ended as well."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


class Programs:
    """Everything that was started; `end` ends it. `folder` takes logs and configurations."""

    def __init__(self, folder, layout):
        self.folder, self.layout = folder, layout
        self.running, self.servers = [], []

    def end(self):
        for program in self.running:
            program.end()
        self.running = []

    def pids(self):
        return [program.process.pid for program in self.running]

    def proxy_pids(self):
        return [program.process.pid for program in self.running if program not in self.servers]

    def stop(self, contender):
        contender.program.end()
        self.running.remove(contender.program)

    def start(self, name, argv, port, cpus, password=None):
        program = Program(name, ["taskset", "-c", machine.listed(cpus), *argv], port,
                          os.path.join(self.folder, f"{name}.log"), password)
        self.running.append(program)
        program.start()
        return Contender(name, port, program)

    def start_anew(self, programs):
        """Ends these, and starts them in this order when none of them runs any more."""
        for program in programs:
            program.end()
        for program in programs:
            program.await_closed()
            program.start()

    def synthetic(self, cpus=None):
        port, cpus = free_port(), cpus or self.layout.server
        program = ["target/release/examples/synthetic", f"{HOST}:{port}", machine.listed(cpus)]
        server = self.start(f"server-{machine.listed(cpus)}", program, port, cpus)
        self.servers.append(server.program)
        return server

    def haproxy(self, name, server, tuning="", options="", cpus=None, certificate=None):
        cpus = cpus or [self.layout.proxy]
        port = free_port()
        path = os.path.join(self.folder, f"{name}.cfg")
        # Two descriptors each; what splices takes up to half as many again for its pipes.
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        limit = min(CONNECTIONS_MAX, files // (4 if options else 2) - 100)
        with open(path, "w") as file:
            file.write(HAPROXY.format(port=port, host=HOST, server=server.address, maxconn=limit,
                                      threads=len(cpus), tuning=tuning, options=options,
                                      bind=f" ssl crt {certificate}" if certificate else ""))
        contender = self.start(name, ["haproxy", "-db", "-f", path], port, cpus)
        contender.scheme = "bolt+ssc" if certificate else "bolt"
        return contender

    def hog(self):
        """Keeps the proxies' CPU busy, and is no stranger to those who watch it."""
        busy = ["taskset", "-c", str(self.layout.proxy), "sh", "-c", "while :; do :; done"]
        process = subprocess.Popen(busy, stdin=subprocess.DEVNULL)
        self.running.append(Program("hog", busy, 0, os.devnull, process=process))

    def boltmux(self, name, server, settings, password=PASSWORD, cpus=None, under=()):
        """`under` is a command that starts another, with its arguments."""
        port, admin = free_port(), free_port()
        cpus = cpus or [self.layout.proxy]
        argv = [*under, "target/release/boltmux", "--bind", f"{HOST}:{port}", "--uri",
                f"bolt://{server.address}", "--user", USER]
        for setting in (f"shards={len(cpus)}", f"admin.bind={HOST}:{admin}", *settings):
            argv += ["--set", setting]
        contender = self.start(name, argv, port, cpus, password)
        contender.admin = admin
        return contender


@dataclass(eq=False)
class Program:
    """A process, and what it takes to start it again as it was: with its port and settings."""

    name: str
    argv: list
    port: int
    log_path: str
    # boltmux's for its server. Who has none is ready as soon as it listens.
    password: str | None = None
    process: subprocess.Popen | None = None

    def start(self):
        """Returns when it is ready for clients."""
        secret = {"BOLT_PROXY_PASSWORD": self.password} if self.password else {}
        with open(self.log_path, "w") as log:
            self.process = subprocess.Popen(self.argv, stdin=subprocess.DEVNULL, stdout=log,
                                            stderr=subprocess.STDOUT, env={**os.environ, **secret})
        deadline = time.monotonic() + START_LIMIT_S
        while not is_open(self.port):
            if self.process.poll() is not None or time.monotonic() > deadline:
                with open(self.log_path) as log:
                    raise SystemExit(f"{self.name} did not start:\n{log.read()}")
            time.sleep(0.05)
        if self.password:
            self.await_login(deadline)

    def await_login(self, deadline):
        """It listens before it has reached its server, and refuses clients until then."""
        while True:
            try:
                return bolt.Client(self.port, USER, self.password).close()
            except (bolt.Refused, OSError) as error:
                if time.monotonic() > deadline:
                    raise SystemExit(f"{self.name} lets nobody in: {error}") from None
            time.sleep(0.1)

    def await_closed(self):
        """What a ring holds, the kernel lets go of some time after the process has ended: until
        then its port is taken, and asking it tells nothing of whoever comes next."""
        deadline = time.monotonic() + START_LIMIT_S
        while is_open(self.port):
            if time.monotonic() > deadline:
                raise SystemExit(f"{self.name} was ended and port {self.port} is still open")
            time.sleep(0.01)

    def end(self):
        if self.process:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()


class Contender:
    """A program that is measured, or without one a server that somebody else runs."""

    def __init__(self, name, port, program=None):
        self.name, self.port, self.program = name, port, program
        # Where boltmux tells its metrics.
        self.admin = None
        self.scheme = "bolt"

    def over(self, scheme, name):
        """The same program asked in another way, under another name."""
        other = copy.copy(self)
        other.scheme, other.name = scheme, name
        return other

    def metric(self, name):
        """The sum of all lines of a metric, whatever their labels."""
        with urllib.request.urlopen(f"http://{HOST}:{self.admin}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        found = [line.rsplit(" ", 1)[1] for line in lines
                 if line.split("{")[0].split(" ")[0] == name]
        if not found:
            raise SystemExit(f"expected {name} among the metrics of {self.name}")
        return sum(float(value) for value in found)

    @property
    def pid(self):
        """Another one after a new start."""
        return self.program.process.pid

    @property
    def address(self):
        return f"{HOST}:{self.port}"


def build():
    """The benches too, so that none is built in the time in which the machine is to be quiet."""
    subprocess.run(["cargo", "build", "--locked", "--release", "--bins", "--examples"],
                   check=True, stdin=subprocess.DEVNULL)
    bench_programs(BENCHES)


def bench_programs(names):
    """Builds these benches; where cargo has put them."""
    paths = []
    for name in names:
        done = subprocess.run(["cargo", "bench", "--locked", "--bench", name, "--no-run",
                               "--message-format=json"], check=True, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, text=True)
        built = [json.loads(line) for line in done.stdout.splitlines()]
        paths += [each["executable"] for each in built
                  if each.get("executable") and each["target"]["kind"] == ["bench"]]
    return paths


def boltload(contenders, options, load_cpus, folder, password=PASSWORD, is_local=True):
    """One round of every contender, in this order. Returns its numbers by name, and the command.

    Errors of a target are numbers too; an answer of another request ends the comparison.
    """
    report = os.path.join(folder, "boltload.json")
    argv = ["target/release/boltload", "--user", USER, "--cpus", machine.listed(load_cpus),
            "--rounds", "1", *options]
    shown = shlex.join(argv)
    for contender in contenders:
        argv += ["--target", f"{contender.name}={contender.scheme}://{contender.address}"]
        if is_local and contender.program:
            argv += ["--pid", f"{contender.name}={contender.pid}"]
    argv += ["--allow-errors", "--json", report]
    if os.path.exists(report):
        os.remove(report)
    done = subprocess.run(argv, env={**os.environ, "BOLTLOAD_PASSWORD": password},
                          stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0 or not os.path.exists(report):
        raise SystemExit(f"{shown}\n{done.stdout}{done.stderr}")
    with open(report) as file:
        numbers = json.load(file)
    return {target["name"]: target for target in numbers["targets"]}, shown, numbers
