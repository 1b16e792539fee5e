"""Runs every client against every server, directly and through boltmux, and compares.

    tests/real/matrix [--proxy BINARY] [--servers NAMES] [--clients NAMES] [--schemes NAMES]
                      [--only NAMES] [--again] [--quick] [--document] [--for SECONDS]
                      [--running NAME=PORT,...] [--any-build]

What came out of each cell is kept in .cache/matrix/, so a run that was ended goes on where it was.
With --for, no cell is begun after so many seconds; with --running neo4j-5.26=17687,... a server
that somebody else started, with the users that these tests have, is used and left alone.
A cell is run anew when its scenarios change and, through boltmux, when the program changes;
--again runs all anew, --any-build takes results of other builds, and the document says how many.
After a run of everything, COMPATIBILITY.md is written from the results; --document runs nothing and
writes it from what there is. With --quick, a few cells run and nothing is written.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time

import document
import prepare
from catalogue import CLIENTS, HERE, SERVERS, Cell, cells
from outcome import compare, tally
from proxy import Proxy
from relay import Relay
from support import CACHE, HOST, REPOSITORY, end_in_order_on_sigterm, end_with_parent

RESULTS = os.path.join(CACHE, "matrix")
# The longest takes 60 s directly; scenarios that hang give up by themselves after 90 s each.
PASS_LIMIT_S = 600
SHOWN_MAX = 1200  # Characters of an outcome that is shown when the two differ.
SHARDS = 2
# One cell of each kind: what breaks one client or one server breaks one of these.
QUICK = (Cell("neo4j-5.26", "java-6.2.1", "neo4j"), Cell("neo4j-5.26", "go-6.0.0", "bolt+s"),
         Cell("neo4j-5.26", "web-6.3.0", "bolt+s"), Cell("neo4j-5.26", "neo4j-browser", "bolt"),
         Cell("neo4j-5.26", "neo4rs", "bolt"), Cell("arcadedb", "python-6.4.1", "neo4j"),
         Cell("arcadedb", "python-6.4.1", "bolt", "3.0"),
         Cell("arcadedb", "javascript-4.4.11", "bolt", "4.0"))


def digest_of(paths):
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            digest.update(file.read())
    return digest.hexdigest()[:16]


class Store:
    """The results of passes, each in its file, with what they depend on."""

    def __init__(self, proxy_binary, any_build=False):
        self._proxy_digest = digest_of([proxy_binary])
        self._any_build = any_build

    def path(self, cell, way):
        cell = cell.base if way == "direct" else cell
        name = cell.name.replace(" ", "/") + f"-{way}.json"
        return os.path.join(RESULTS, name)

    def fingerprint(self, cell, way):
        """Only what can change the outcome, so that an unrelated edit repeats nothing."""
        cell = cell.base if way == "direct" else cell
        sources = [os.path.join(HERE, name) for name in CLIENTS[cell.client].sources]
        return [digest_of(sources), SERVERS[cell.server].title, cell.only,
                self._proxy_digest if way == "through" else ""]

    def load(self, cell, way):
        """The result, or None where it is not there or of something older."""
        try:
            with open(self.path(cell, way)) as file:
                result = json.load(file)
        except (OSError, ValueError):
            return None
        expected = self.fingerprint(cell, way)
        result["other_build"] = result["fingerprint"][-1] != expected[-1]
        if self._any_build:
            expected[-1] = result["fingerprint"][-1]
        return result if result["fingerprint"] == expected else None

    def save(self, cell, way, result):
        path = self.path(cell, way)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        result["fingerprint"] = self.fingerprint(cell, way)
        with open(path + ".new", "w") as file:
            json.dump(result, file, sort_keys=True)
        os.replace(path + ".new", path)


def run_pass(cell, way, port, direct_port, only):
    """{"outcomes": {name: outcome}, "versions": [...], "seconds": ...} of one client's run."""
    client = CLIENTS[cell.client]
    log_path = os.path.join(CACHE, "run", f"{cell.name} {way}.log".replace(" ", "-"))
    started = time.monotonic()
    watched = client.watched and "+" not in cell.scheme  # The relay cannot look into TLS.
    relay = Relay(port, cell.version) if cell.version or watched else None
    argv = [*client.argv, "--uri", f"{cell.scheme}://{HOST}:{relay.port if relay else port}",
            "--direct", f"bolt://{HOST}:{direct_port}", "--only", only, "--server", cell.server]
    with open(log_path, "w") as log:
        child = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True,
            env={**os.environ, **client.environment, **prepare.trust()},
            preexec_fn=end_with_parent)
        try:
            output, _ = child.communicate(timeout=PASS_LIMIT_S)
        except subprocess.TimeoutExpired:
            child.kill()
            output, _ = child.communicate()
    # A later run has the server on another port, and goes on with these results.
    output = output.replace(f"{HOST}:{direct_port}", "the server's address")
    lines = [json.loads(line) for line in output.split("\n") if line.startswith("{")]
    outcomes = {line["name"]: line["outcome"] for line in lines}
    versions = told_versions(outcomes)
    if relay:
        relay.close()
        versions = sorted(relay.versions)
    return {"outcomes": outcomes, "versions": versions, "log": log_path,
            "untold": client.watched and not watched,
            "seconds": round(time.monotonic() - started, 1), "date": time.strftime("%Y-%m-%d")}


def told_versions(outcomes):
    """The version that the client itself names in its first scenario."""
    told = outcomes.get("connectivity") or outcomes.get("version")
    if not isinstance(told, list):
        told = outcomes.get("version")
    if not isinstance(told, list):
        return []
    version = told[1]
    return [".".join(map(str, version)) if isinstance(version, list) else version]


class Running:
    """A server that somebody else started and ends."""

    def __init__(self, port):
        self.port = int(port)

    def start(self):
        return self

    def stop(self):
        pass

    def settle(self):
        pass


class Progress:
    """One line for each cell, with what is left."""

    def __init__(self, total):
        self.total, self.done, self.started = total, 0, time.monotonic()
        self.failures = []

    def time_is_up(self, limit_s):
        return time.monotonic() - self.started > limit_s

    def line(self, cell, text, good):
        self.done += 1
        passed_s = time.monotonic() - self.started
        left_s = passed_s / self.done * (self.total - self.done)
        print(f"[{self.done}/{self.total}] {'PASS' if good else 'FAIL'} {cell.name}: {text}"
              f" ({left_s / 60:.0f} min left)", flush=True)
        if not good:
            self.failures.append(cell.name)


def run_cell(cell, server, proxy, arguments, store):
    """Both results of one cell; what is known already is not run again."""
    results = {}
    for way, ran, port in (("direct", cell.base, server.port), ("through", cell, proxy.port)):
        # Several cells have the same direct run, and --again repeats it for the first of them.
        result = None if arguments.again and ran == cell else store.load(cell, way)
        if result is None or arguments.only:
            server.settle()
            made = handshakes(proxy)
            result = run_pass(ran, way, port, server.port, arguments.only or ran.only)
            if way == "through" and "+" in cell.scheme and handshakes(proxy) == made:
                result["outcomes"]["encryption"] = {"failed": "no client made a TLS handshake"}
            if not arguments.only and result["outcomes"]:
                store.save(cell, way, result)
        results[way] = result
    return results if arguments.only else comparable(cell, results)


def handshakes(proxy):
    """How many clients boltmux has spoken TLS with."""
    return sum(number for name, number in proxy.metrics().items()
               if name.startswith("boltmux_tls_handshakes_total") and 'peer="client"' in name
               and 'outcome="failed"' not in name)


def show_cell(cell, results, progress):
    differences = compare(results["direct"], results["through"])
    counts = tally(results["direct"], results["through"])
    text = (f"Bolt {' '.join(results['through']['versions']) or '?'}, {counts['equal']} equal,"
            f" {counts['fails']} fail directly too, {len(differences)} different,"
            f" {results['direct']['seconds']} s and {results['through']['seconds']} s")
    progress.line(cell, text, not differences and counts["equal"] > 0)
    for name, expected, came in differences:
        print(f"    {name}\n      direct:  {json.dumps(expected)[:SHOWN_MAX]}\n"
              f"      through: {json.dumps(came)[:SHOWN_MAX]}", flush=True)
    if not results["direct"]["outcomes"]:
        with open(results["direct"]["log"]) as log:
            print(f"    nothing ran directly; the log ends: {log.read()[-1500:]}", flush=True)


def known(cell, store):
    """Both results of a cell, or None for what has to be run."""
    return comparable(cell, {way: store.load(cell, way) for way in ("direct", "through")})


def comparable(cell, results):
    """The direct run may have been of more scenarios than the cell is."""
    names = cell.only.split(",")
    if cell.only and results["direct"]:
        outcomes = {name: outcome for name, outcome in results["direct"]["outcomes"].items()
                    if name in names}
        return {**results, "direct": {**results["direct"], "outcomes": outcomes}}
    return results


def run_server(name, wanted, arguments, store, progress):
    """All cells of one server, which is started only if something has to be run."""
    missing = [cell for cell in wanted
               if arguments.again or arguments.only or None in known(cell, store).values()]
    for cell in wanted:
        if cell not in missing:
            show_cell(cell, known(cell, store), progress)
    if not missing:
        return
    port = arguments.running.get(name)
    server = Running(port) if port else SERVERS[name].make()
    try:
        server.start()
        options = {"pool.size": 4, "shards": SHARDS}
        with Proxy(arguments.proxy, server.port, options, name=f"boltmux-{name}",
                   flags=prepare.proxy_flags(wanted)) as proxy:
            for cell in missing:
                if progress.time_is_up(arguments.limit_s):
                    break
                show_cell(cell, run_cell(cell, server, proxy, arguments, store), progress)
            output, status = proxy.output(), proxy.stop()
            if "panicked" in output or status != 0:
                progress.failures.append(f"boltmux at {name}: status {status}, {proxy.log_path}")
    finally:
        server.stop()


def parse():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--proxy", default=f"{REPOSITORY}/target/release/boltmux")
    parser.add_argument("--servers", default=",".join(SERVERS))
    parser.add_argument("--clients", default=",".join(CLIENTS))
    parser.add_argument("--schemes", default=",".join(prepare.SCHEMES))
    parser.add_argument("--only", default="", help="names of scenarios; nothing is kept then")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--document", action="store_true", help="run nothing, only write it")
    parser.add_argument("--for", dest="limit_s", type=float, default=1e9)
    parser.add_argument("--running", default={}, type=lambda text: dict(
        pair.split("=") for pair in text.split(",")))
    parser.add_argument("--any-build", action="store_true")
    parser.add_argument("--list", action="store_true", help="name the cells and end")
    return parser.parse_args()


def chosen(arguments):
    everything = QUICK if arguments.quick else list(cells(arguments.schemes.split(",")))
    servers, clients = arguments.servers.split(","), arguments.clients.split(",")
    for name in servers + clients:
        if name not in SERVERS and name not in CLIENTS:
            sys.exit(f"expected a server of {' '.join(SERVERS)} or a client of"
                     f" {' '.join(CLIENTS)}, not {name}")
    return [cell for cell in everything if cell.server in servers and cell.client in clients]


def write_document(arguments, store):
    document.write(list(cells(prepare.SCHEMES)), lambda cell: known(cell, store), arguments.proxy,
                   SHARDS, prepare.SCHEMES_OFF)


def main():
    end_in_order_on_sigterm()
    arguments = parse()
    arguments.again = arguments.again or arguments.quick
    if not os.path.exists(arguments.proxy):
        sys.exit(f"expected the proxy at {arguments.proxy}: build it, or name it with --proxy")
    wanted = chosen(arguments)
    if arguments.list:
        print("\n".join(cell.name for cell in wanted))
        return
    store = Store(arguments.proxy, arguments.any_build)
    if arguments.document:
        write_document(arguments, store)
        return
    prepare.certificates()
    prepare.programs(sorted({cell.client for cell in wanted}))
    progress = Progress(len(wanted))
    for name in SERVERS:
        of_server = [cell for cell in wanted if cell.server == name]
        if of_server and not progress.time_is_up(arguments.limit_s):
            run_server(name, of_server, arguments, store, progress)
    complete = progress.done == len(wanted) and wanted == list(cells(prepare.SCHEMES))
    if complete and not arguments.quick and not arguments.only:
        write_document(arguments, store)
    for failure in progress.failures:
        print(f"failed: {failure}")
    print(f"matrix: {progress.done - len(progress.failures)} cells passed,"
          f" {len(progress.failures)} failed, {len(wanted) - progress.done} not run")
    sys.exit(1 if progress.failures or not progress.done else 0)


if __name__ == "__main__":
    main()
