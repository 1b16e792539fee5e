"""A real Neo4j Community server on the loopback address, from the jars that tests/install fetched.

Runs the 5.26 line and the newer ones, which need a newer Java. Owns the server's home folder and
its process: start, stop, kill, restart on the same port with the data kept. Two users exist after
the first start: `neo4j` and `alice` (see PASSWORDS).
"""

import functools
import glob
import os
import re
import shutil
import subprocess

import neo4j

from support import CACHE, HOST, PASSWORDS, Process, free_port

NEO4J_VERSION = "5.26.30"
NEO4J_VERSION_NEW = "2026.08.1"
JAVA_MIN = {"5": 17, "2026": 21}  # What each line of Neo4j needs at least.
MAIN_CLASS = {"5": "org.neo4j.server.CommunityEntryPoint",
              "2026": "org.neo4j.server.Neo4jCommunity"}
JAVA_PLACES = "/usr/lib/jvm/*/bin/java"

# Strict validation is on: a setting that the server does not know stops its start.
CONFIGURATION = """\
server.default_listen_address=127.0.0.1
server.bolt.enabled=true
server.bolt.listen_address=127.0.0.1:{port}
server.bolt.advertised_address=127.0.0.1:{port}
server.http.enabled=false
server.https.enabled=false
dbms.security.auth_minimum_password_length=4
dbms.usage_report.enabled=false
server.memory.heap.initial_size={heap}
server.memory.heap.max_size={heap}
server.memory.pagecache.size=64m
# A data folder of 2 MiB instead of 516 MiB.
db.tx_log.preallocate=false
db.tx_log.rotation.size=1M
# Stops in 2 s.
internal.dbms.bolt.netty_server_shutdown_quiet_period=0
"""

# The newer line would broadcast on the network and start a manager.
CONFIGURATION_NEW = """\
server.fleet_discovery.enabled=false
dbms.fleet_manager.enabled=false
"""

# What the server's own start script gives to the virtual machine.
JAVA_OPTIONS = """\
-XX:+UseG1GC -XX:-OmitStackTraceInFastThrow -XX:+UnlockExperimentalVMOptions
-XX:+TrustFinalNonStaticFields -Djdk.nio.maxCachedBufferSize=1024
-Dio.netty.tryReflectionSetAccessible=true -Dio.netty.leakDetection.level=DISABLED
-Dlog4j2.disable.jmx=true -Dfile.encoding=UTF-8 -Djava.awt.headless=true
--add-opens=java.base/java.nio=ALL-UNNAMED --add-opens=java.base/java.io=ALL-UNNAMED
--add-opens=java.base/sun.nio.ch=ALL-UNNAMED
--add-opens=java.base/java.util.concurrent=ALL-UNNAMED
""".split()

JAVA_OPTIONS_NEW = "--enable-native-access=ALL-UNNAMED --add-modules=jdk.incubator.vector".split()

READY_LIMIT_S = 120  # 6 s on an idle machine; a busy one may need many times that.
STOP_LIMIT_S = 30


@functools.cache
def java(version_min):
    """A Java that is new enough: the one on the path, else one of the usual folder."""
    for path in [shutil.which("java") or "", *sorted(glob.glob(JAVA_PLACES), reverse=True)]:
        if path and java_version(path) >= version_min:
            return path
    raise RuntimeError(f"expected Java {version_min} or newer on the path or as {JAVA_PLACES}")


@functools.cache
def java_version(path):
    told = subprocess.run([path, "-version"], capture_output=True, text=True).stderr
    found = re.search(r'version "(\d+)', told)
    return int(found[1]) if found else 0


class Server:
    """One server with an empty store. `settings` are further lines of its configuration.

    `scheme` is what the settings ask of drivers: bolt+s where the server takes TLS only.
    """

    def __init__(self, name="neo4j", heap="512m", port=None, settings=(), version=NEO4J_VERSION,
                 scheme="bolt"):
        self.version = version
        self.scheme = scheme
        self.line = version.split(".")[0]
        self.port = port or free_port()
        self.heap = heap
        self.home = os.path.join(CACHE, "run", name)
        self.process = None
        shutil.rmtree(self.home, ignore_errors=True)
        for folder in ("conf", "logs", "run", "plugins", "import", "data"):
            os.makedirs(os.path.join(self.home, folder))
        with open(os.path.join(self.home, "conf", "neo4j.conf"), "w") as file:
            file.write(CONFIGURATION.format(port=self.port, heap=heap))
            file.write(CONFIGURATION_NEW if self._needs_new_options() else "")
            file.writelines(line + "\n" for line in settings)
        self._set_initial_password()
        self._users_exist = False

    @property
    def uri(self):
        return f"{self.scheme}://{HOST}:{self.port}"

    @property
    def log_path(self):
        return os.path.join(self.home, "console.log")

    def start(self):
        """Starts the server and returns when it says that it is ready."""
        self.start_without_waiting()
        self.wait_ready()
        return self

    def start_without_waiting(self):
        # A killed server's log keeps its "Started.": Process reads only what this run writes.
        self.process = Process(
            [self._java(), f"-Xms{self.heap}", f"-Xmx{self.heap}", *JAVA_OPTIONS,
             *(JAVA_OPTIONS_NEW if self._needs_new_options() else []), "-cp", self._jars(),
             MAIN_CLASS[self.line], f"--home-dir={self.home}",
             f"--config-dir={self.home}/conf", "--console-mode"],
            self.log_path, self._environment())

    def wait_ready(self):
        self.process.wait_for(lambda text: "Started." in text, READY_LIMIT_S,
                              "Neo4j to write 'Started.'")
        if not self._users_exist:
            self._create_users()
            self._users_exist = True

    def stop(self):
        if self.process is not None:
            self.process.end(STOP_LIMIT_S)
            self.process = None

    def kill(self):
        """kill -9: the server loses its connections and running transactions at once."""
        self.process.kill()
        self.process = None

    def restart(self):
        self.stop()
        return self.start()

    def settle(self):
        """Nothing to wait for between two clients: the settings say who is locked out, if any."""

    def driver(self, user="neo4j", **options):
        """An official driver connected to this server without anything between."""
        return neo4j.GraphDatabase.driver(self.uri, auth=(user, PASSWORDS[user]), **options)

    def _create_users(self):
        with self.driver() as driver, driver.session(database="system") as session:
            session.run("CREATE USER alice IF NOT EXISTS SET PASSWORD $password"
                        " CHANGE NOT REQUIRED", password=PASSWORDS["alice"]).consume()

    def _set_initial_password(self):
        subprocess.run(
            [self._java(), "-cp", self._jars(), "org.neo4j.cli.AdminTool", "dbms",
             "set-initial-password", PASSWORDS["neo4j"]],
            env=self._environment(), check=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL)

    def _needs_new_options(self):
        return self.line != "5"

    def _java(self):
        return java(JAVA_MIN[self.line])

    def _environment(self):
        return {**os.environ, "NEO4J_HOME": self.home, "NEO4J_CONF": self.home + "/conf"}

    def _jars(self):
        return os.path.join(CACHE, f"neo4j-{self.version}", "lib", "*")
