"""What people do in cypher-shell: one call of it for each session. Prints as harness.py does.

The shell is a Java program that tells its outcome in words and in its exit status.
"""

import argparse
import json
import subprocess
import time

from catalogue import JAVA_MIN, JAVA_TRUST, java
from support import CACHE, PASSWORDS

SHELL = f"{CACHE}/cypher-shell-5.26.30/lib/*"
LIMIT_S = 60  # One call takes 1.2 s on an idle machine.

# Scenarios are lists of sessions: the lines typed, and what differs from a plain call.
SCENARIOS = {
    "auto_commit": [
        ["CREATE (n:Made {id: 1}) RETURN n.id AS id;", "MATCH (n:Made) RETURN count(n) AS n;"]],
    "explicit_transactions": [
        [":begin", "CREATE (:Shell {id: 1});", ":commit",
         ":begin", "CREATE (:Shell {id: 2});", ":rollback",
         "MATCH (n:Shell) RETURN sum(n.id) AS sum;"],
        [":begin", "CREATE (:Shell {id: 4});"],
        ["MATCH (n:Shell) RETURN sum(n.id) AS sum;"]],
    "errors_and_recovery": [
        ["RETRUN 1;"], ["RETURN 1/0;"], ["RETURN $missing;"],
        ["RETRUN 1;", "RETURN 'after' AS x;"]],
    "parameters": [
        [":param {name: 'given', list: [1, 2, 3]}", "RETURN $name AS name, $list AS list;"]],
    "many_rows": [["UNWIND range(1, 5000) AS x RETURN x, 'row ' + x AS text;"]],
    "values_there_and_back": [
        ["RETURN date('2024-02-29'), point({x: 1, y: 2}), duration('P1DT2S'), [1, null], {a: 1.5},"
         " datetime('2024-03-31T02:30:00[Europe/Berlin]') AS zone;",
         "CREATE p = (:A {x: 1})-[:R {y: 2}]->(:B) RETURN p;"]],
    "databases": [
        [":use system", "SHOW DATABASES YIELD name, currentStatus ORDER BY name;", ":use neo4j",
         "RETURN 1 AS x;"]],
    "access_mode": [("--access-mode=read", ["CREATE (:Refused);"])],
    "unknown_database": [("--database=nope", ["RETURN 1;"])],
    "impersonation": [("--impersonate=alice", ["RETURN 1;"])],
    "wrong_password": [("--password=wrongpass", ["RETURN 1;"])],
    "alice": [("--username=alice --password=alicepass",
               ["SHOW CURRENT USER YIELD user RETURN user;"])],
}
NEO4J_ONLY = ("databases", "access_mode", "impersonation", "alice")


def call(uri, options, lines):
    """[exit status, its words without anything that depends on the address]."""
    options = {"--username": "neo4j", "--password": PASSWORDS["neo4j"],
               **dict(option.split("=") for option in options.split())}
    argv = [java(JAVA_MIN), "-Xmx256m", *JAVA_TRUST, "-cp", SHELL, "org.neo4j.shell.Main", "-a",
            uri, "--format", "plain", "--non-interactive", "--fail-at-end"]
    argv += [f"{key}={value}" for key, value in options.items()]
    done = subprocess.run(argv, input="\n".join(lines) + "\n", capture_output=True, text=True,
                          timeout=LIMIT_S)
    words = done.stdout + done.stderr
    return [done.returncode, words.replace(uri, "URI").replace(uri.split("//")[1], "ADDRESS")]


def run(name, uri, server):
    if name in NEO4J_ONLY and not server.startswith("neo4j"):
        return {"skipped": "this server has it not"}
    try:
        return [call(uri, *(session if isinstance(session, tuple) else ("", session)))
                for session in SCENARIOS[name]]
    except subprocess.TimeoutExpired:
        return {"failed": f"still running after {LIMIT_S} s"}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--uri", required=True)
    parser.add_argument("--direct", required=True)
    parser.add_argument("--only", default="")
    parser.add_argument("--server", default="neo4j-5.26")
    arguments = parser.parse_args()
    wanted = [name for name in arguments.only.split(",") if name]
    call(arguments.uri, "", ["MATCH (n) DETACH DELETE n;"])
    for name in SCENARIOS:
        if wanted and name not in wanted:
            continue
        started = time.monotonic()
        outcome = run(name, arguments.uri, arguments.server)
        print(json.dumps({"name": name, "outcome": outcome,
                          "seconds": time.monotonic() - started}), flush=True)


if __name__ == "__main__":
    main()
