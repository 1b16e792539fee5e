"""ArcadeDB on the loopback address: another maker's Bolt server, which speaks 3.0, 4.0, 4.4 and 5.

Owns its folder and its process, and has the same users as the Neo4j servers (see PASSWORDS).
"""

import base64
import json
import os
import shutil
import urllib.error
import urllib.request

from support import CACHE, HOST, PASSWORDS, Process, free_port, wait_until

ARCADEDB_VERSION = "26.10.2"
ROOT_PASSWORD = "playwithdata"
READY_LIMIT_S = 120  # 2 s on an idle machine.
STOP_LIMIT_S = 30
LOCKED_OUT_MAX_S = 60  # Twice as long as it locks a user out.


class ArcadeDB:
    """One server with an empty database `neo4j`."""

    def __init__(self, name="arcadedb", heap="512m"):
        self.version = ARCADEDB_VERSION
        self.port = free_port()
        self.http_port = free_port()
        self.heap = heap
        self.home = os.path.join(CACHE, "run", name)
        self.process = None
        shutil.rmtree(self.home, ignore_errors=True)
        os.makedirs(self.home)

    def start(self):
        parts = os.path.join(CACHE, f"arcadedb-{self.version}", "arcadedb_embedded")
        settings = {
            "server.rootPath": self.home, "server.rootPassword": ROOT_PASSWORD,
            "server.httpIncomingHost": HOST, "server.httpIncomingPort": self.http_port,
            "bolt.host": HOST, "bolt.port": self.port, "bolt.defaultDatabase": "neo4j",
            "server.defaultDatabases": "neo4j[root]",
            "server.plugins": "Bolt:com.arcadedb.bolt.BoltProtocolPlugin",
            "server.mode": "development"}
        self.process = Process(
            [f"{parts}/jre/bin/java", f"-Xmx{self.heap}", "--add-modules", "jdk.incubator.vector",
             "-cp", f"{parts}/jars/*",
             *(f"-Darcadedb.{key}={value}" for key, value in settings.items()),
             "com.arcadedb.server.ArcadeDBServer"],
            os.path.join(self.home, "console.log"), cwd=self.home)  # Its log folder is made there.
        self.process.wait_for(lambda _: self._ready(), READY_LIMIT_S, "ArcadeDB to be ready")
        for user, password in PASSWORDS.items():
            account = {"name": user, "password": password, "databases": {"neo4j": ["admin"]}}
            self._ask("server", {"command": f"create user {json.dumps(account)}"})
        return self

    def stop(self):
        if self.process is not None:
            self.process.end(STOP_LIMIT_S)
            self.process = None

    def settle(self):
        """Returns when both users can log in, also after a client that tried wrong passwords.

        After five of them in a row the server locks a user out for 30 s; a right one ends the row.
        """
        for user in PASSWORDS:
            wait_until(lambda user=user: self._lets_in(user), LOCKED_OUT_MAX_S,
                       f"ArcadeDB to let {user} in again", pause_s=0.5)

    def _lets_in(self, user):
        try:
            return self._ask("databases", user=user, password=PASSWORDS[user]) == 200
        except urllib.error.HTTPError:
            return False

    def _ready(self):
        try:
            return self._ask("ready") == 204
        except (urllib.error.URLError, OSError):
            return False

    def _ask(self, path, command=None, user="root", password=ROOT_PASSWORD):
        """The status of one request to its HTTP interface."""
        word = base64.b64encode(f"{user}:{password}".encode()).decode()
        request = urllib.request.Request(
            f"http://{HOST}:{self.http_port}/api/v1/{path}",
            data=json.dumps(command).encode() if command else None,
            headers={"Authorization": f"Basic {word}", "Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status
