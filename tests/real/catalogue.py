"""What the matrix is made of: servers, clients, schemes, and which of them meet in a cell.

tests/install fetches all of it; the versions here are the ones that it names.
"""

import os
from dataclasses import dataclass, field, replace

from arcadedb import ARCADEDB_VERSION, ArcadeDB
from server import NEO4J_VERSION, NEO4J_VERSION_NEW, Server, java
from support import CACHE

HERE = os.path.dirname(os.path.abspath(__file__))
JAVA_MIN = 17  # What the Java drivers need.
CERTIFICATES = os.path.join(CACHE, "certificates")
TRUST_STORE = os.path.join(CERTIFICATES, "trust.p12")
TRUST_STORE_PASSWORD = "testtest"  # Java wants one; the store holds nothing secret.
JAVA_TRUST = (f"-Djavax.net.ssl.trustStore={TRUST_STORE}",
              f"-Djavax.net.ssl.trustStorePassword={TRUST_STORE_PASSWORD}")

# Enough of each client to see that a scheme or a version works, in a few seconds.
CORE = ("connectivity,version,auto_commit,explicit_transactions,values_there_and_back,zoned_times,"
        "nodes_relationships_paths,two_open_results,partly_read_results,errors_and_recovery,"
        "wrong_password,bookmarks,access_mode,driver_closed_in_mid_stream,transactions,many_rows,"
        "plain_errors,plain_values,abandoned,abandoned_with_its_driver,notification_filters,"
        "two_users_of_one_driver,login_refused")
# What TLS could spoil.
ENCRYPTED = ("connectivity,version,auto_commit,explicit_transactions,values_there_and_back,"
             "two_open_results,wrong_password,transactions,many_rows,plain_errors,login_refused,"
             "everyday_use")
# What may differ where the driver asks for routes.
ROUTED = CORE + (",managed_transactions,execute_query,refused_by_this_edition,everyday_use,"
                 "connection_ended_by_the_server,deadlock_is_retried,two_users,system_database,"
                 "databases,unknown_database,impersonation,alice,parameters,many_at_once")

# All that is not slow. Two clients run the rest as well: results and parameters of 20 MiB, 100,000
# rows, 200 sessions at once.
STANDARD = ROUTED + (
    ",vectors,summaries,bytes_there_and_back,points_and_durations,bookmark_of_the_future,"
    "expired_password,transaction_metadata,tx_timeout,transactions_side_by_side,two_users,"
    "transaction_ended_by_another,busy_connection_ended_by_the_server,bookmark_managers,"
    "error_inside_a_transaction,constraint_violation,idle_connections_of_another_user,"
    "abandoned_with_its_session,asynchronous_sessions,async_everyday_use,async_query_cancelled,"
    "query_cancelled,connections_checked_and_replaced,many_statements_in_one_transaction,"
    "large_transaction,system_database,version,plain_auto_commit,plain_two_users")
THOROUGH = (("neo4j-5.26", "python-6.4.1"), ("neo4j-5.26", "javascript-6.3.0"))

# ArcadeDB keeps the database that a request named for later requests of the connection that name
# none, also directly. What names a strange one spoils the connection for whoever comes next.
SPOILS_ARCADEDB = ("refused_by_this_edition", "unknown_database")


# Many clients log in wrongly here, and none may lock the user for the next one.
SETTINGS = ("dbms.security.auth_max_failed_attempts=0",)


ALL_SCHEMES = ("bolt", "neo4j", "bolt+s", "bolt+ssc", "neo4j+s", "neo4j+ssc")
# A web page cannot ask for TLS with any certificate.
PAGE_SCHEMES = ("bolt", "neo4j", "bolt+s", "neo4j+s")


@dataclass(frozen=True)
class ServerKind:
    """A server that can be started; `versions` is what it speaks.

    `schemes`: those that are tried. TLS ends in boltmux, so that one server has them all.
    """
    name: str
    title: str
    make: object
    versions: tuple
    schemes: tuple = ("bolt", "neo4j", "bolt+s")


SERVERS = {kind.name: kind for kind in (
    ServerKind("neo4j-5.26", f"Neo4j Community {NEO4J_VERSION}",
               lambda: Server("matrix-5.26", version=NEO4J_VERSION, settings=SETTINGS),
               ("4.0", "4.1", "4.2", "4.3", "4.4", "5.0", "5.1", "5.2", "5.3", "5.4",
                "5.6", "5.7", "5.8"), ALL_SCHEMES),
    ServerKind("neo4j-2026", f"Neo4j Community {NEO4J_VERSION_NEW}",
               lambda: Server("matrix-2026", version=NEO4J_VERSION_NEW, settings=SETTINGS),
               ("4.0", "4.1", "4.2", "4.3", "4.4", "5.0", "5.1", "5.2", "5.3", "5.4",
                "5.6", "5.7", "5.8", "6.0", "6.1")),
    ServerKind("arcadedb", f"ArcadeDB {ARCADEDB_VERSION}",
               lambda: ArcadeDB("matrix-arcadedb"),
               ("3.0", "4.0", "4.4", "5.0", "5.1", "5.2", "5.3", "5.4")),
)}


@dataclass(frozen=True)
class Client:
    """A program that runs scenarios. `argv` is completed by --uri, --direct, --only and --server.

    `made_to_speak`: the versions that a relay leaves it, one after the other. `watched`: the relay
    has to tell which version was agreed on, for the client does not say.
    """
    name: str
    title: str
    argv: tuple
    sources: tuple
    schemes: tuple = ALL_SCHEMES
    made_to_speak: tuple = ()
    watched: bool = False
    environment: dict = field(default_factory=dict)


PYTHON_SOURCES = ("harness.py", "support.py", "scenarios.py", "scenarios_44.py",
                  "scenarios_async.py", "scenarios_more.py", "scenarios_users.py",
                  "scenarios_values.py")


def python(version, program="scenarios.py", **options):
    return Client(f"python-{version}", f"Python driver {version}",
                  (f"{CACHE}/python-{version}/bin/python", f"{HERE}/{program}"),
                  PYTHON_SOURCES, **options)


def javascript(version, **options):
    return Client(f"javascript-{version}", f"JavaScript driver {version}, Node",
                  ("node", f"{HERE}/node.mjs", f"{CACHE}/node-{version}"),
                  ("node.mjs", "scenarios.mjs"), **options)


def web(version):
    return Client(f"web-{version}", f"JavaScript driver {version}, Chromium",
                  ("node", f"{HERE}/chromium.mjs", f"{CACHE}/node-{version}"),
                  ("chromium.mjs", "page.mjs", "page.html", "scenarios.mjs"),
                  schemes=PAGE_SCHEMES)


def java_driver(version, **options):
    folder = f"{CACHE}/java-{version}"
    return Client(f"java-{version}", f"Java driver {version}",
                  (java(JAVA_MIN), "-Xmx512m", "-XX:TieredStopAtLevel=1", *JAVA_TRUST, "-cp",
                   f"{folder}/lib/*:{folder}/classes", "Scenarios"), ("Scenarios.java",),
                  **options)


def go_driver(version):
    return Client(f"go-{version}", f"Go driver {version}",
                  (f"{CACHE}/go-{version}/scenarios",), ("scenarios.go",))


CURRENT = ("5.8", "5.7", "5.6", "5.4", "5.3", "5.2", "5.1", "5.0", "4.4", "4.3", "4.2", "3.0")

CLIENTS = {client.name: client for client in (
    python("6.4.1", made_to_speak=("6.0", *CURRENT)),
    python("5.28.8"),
    python("4.4.12", "scenarios_44.py", made_to_speak=("4.3", "4.2", "4.1", "4.0", "3.0")),
    javascript("6.3.0", made_to_speak=("6.0", "5.8", "5.4", "5.0", "4.4", "4.2", "3.0")),
    javascript("5.28.3"),
    javascript("4.4.11", made_to_speak=("4.3", "4.2", "4.1", "4.0", "3.0")),
    web("6.3.0"),
    web("5.28.3"),
    web("4.4.11"),
    java_driver("6.2.1"),
    java_driver("5.28.15"),
    go_driver("6.0.0"),
    go_driver("5.28.4"),
    Client("cypher-shell", "cypher-shell 5.26.30",
           (f"{CACHE}/python-6.4.1/bin/python", f"{HERE}/shell.py"), ("shell.py",), watched=True),
    Client("neo4rs", "Rust neo4rs 0.8.0", (f"{CACHE}/neo4rs-0.8.0/target/debug/scenarios",),
           ("neo4rs/src/main.rs",), watched=True),
    Client("neo4j-browser", "Neo4j Browser 5.24.0, Chromium", ("node", f"{HERE}/browser.mjs"),
           ("browser.mjs", "page.mjs"), schemes=PAGE_SCHEMES),
)}


@dataclass(frozen=True)
class Cell:
    """One client at one server over one scheme; `version` is the only one it may speak, or None."""
    server: str
    client: str
    scheme: str
    version: str = None

    @property
    def name(self):
        return f"{self.server} {self.client} {self.version or self.scheme}"

    @property
    def base(self):
        """The cell whose direct run is compared: the server itself has no certificate."""
        return replace(self, scheme=self.scheme.split("+")[0])

    @property
    def only(self):
        """The names of the scenarios to run, with commas; none: all there are."""
        names = {"bolt": STANDARD, "neo4j": ROUTED}.get(self.scheme, ENCRYPTED)
        if self.version is not None:
            names = CORE
        elif self.scheme == "bolt" and (self.server, self.client) in THOROUGH:
            names = ""
        if self.server == "arcadedb":
            names = ",".join(name for name in names.split(",") if name not in SPOILS_ARCADEDB)
        return names


def cells(schemes):
    """All of them, server by server, so that each is started once; the most telling ones first."""
    for server in SERVERS.values():
        for client in CLIENTS.values():
            for scheme in schemes:
                if "+" not in scheme:
                    yield Cell(server.name, client.name, scheme)
        for client in CLIENTS.values():
            for version in client.made_to_speak:
                if version in server.versions:
                    yield Cell(server.name, client.name, "bolt", version)
        for client in CLIENTS.values():
            for scheme in schemes:
                if "+" in scheme and scheme in client.schemes and scheme in server.schemes:
                    yield Cell(server.name, client.name, scheme)
