"""What has to be made before the matrix can run: programs that need a compiler, certificates.

The programs are built in the folders that tests/install made, and again only when their source
changed.
"""

import glob
import os
import re
import shutil
import subprocess
import time

from catalogue import CERTIFICATES, CLIENTS, HERE, JAVA_MIN, TRUST_STORE, TRUST_STORE_PASSWORD
from server import java
from support import CACHE

# The schemes that boltmux accepts clients on, and why the others are not tried.
SCHEMES = ("bolt", "neo4j", "bolt+s", "bolt+ssc", "neo4j+s", "neo4j+ssc")
SCHEMES_OFF = {}

DAYS = "30"  # The certificates are made anew long before.
DAYS_MAX_S = 20 * 86400
AUTHORITY = os.path.join(CERTIFICATES, "authority.crt")


def programs(names):
    """Builds what these clients need."""
    for name in names:
        family, _, version = name.partition("-")
        if family == "go":
            build_go(version)
        if family == "java":
            build_java(version)
        if family == "neo4rs":
            build_neo4rs()


def build_go(version):
    """The source is written for one major version of the driver; another differs in the path."""
    folder = os.path.join(CACHE, f"go-{version}")
    with open(os.path.join(HERE, "scenarios.go")) as file:
        source = file.read()
    major = version.split(".")[0]
    source = re.sub(r"neo4j-go-driver/v\d+", f"neo4j-go-driver/v{major}", source)
    if put(os.path.join(folder, "main.go"), source, os.path.join(folder, "scenarios")):
        subprocess.run(["go", "build", "-o", "scenarios", "."], cwd=folder, check=True,
                       stdin=subprocess.DEVNULL)


def build_java(version):
    """Once, for the launcher would compile the source anew for each pass: 5 s of a core."""
    folder = os.path.join(CACHE, f"java-{version}")
    with open(os.path.join(HERE, "Scenarios.java")) as file:
        source = file.read()
    if put(os.path.join(folder, "Scenarios.java"), source,
           os.path.join(folder, "classes", "Scenarios.class")):
        jars = os.pathsep.join(glob.glob(os.path.join(folder, "lib", "*.jar")))
        subprocess.run([java(JAVA_MIN), "-m", "jdk.compiler/com.sun.tools.javac.Main", "-cp", jars,
                        "-d", "classes", "Scenarios.java"], cwd=folder, check=True,
                       stdin=subprocess.DEVNULL)


def build_neo4rs():
    program = CLIENTS["neo4rs"].argv[0]
    folder = os.path.dirname(os.path.dirname(os.path.dirname(program)))
    with open(os.path.join(HERE, "neo4rs", "src", "main.rs")) as file:
        source = file.read()
    if put(os.path.join(folder, "src", "main.rs"), source, program):
        subprocess.run(["cargo", "build", "--quiet", "--locked"], cwd=folder, check=True,
                       stdin=subprocess.DEVNULL)


def put(path, source, program):
    """Writes the source if it is new, and says whether the program must be built."""
    old = None
    if os.path.exists(path):
        with open(path) as file:
            old = file.read()
    if old == source and os.path.exists(program):
        return False
    if os.path.exists(program):
        os.remove(program)
    with open(path, "w") as file:
        file.write(source)
    return True


def certificates():
    """An authority of the tests' own, and boltmux's certificate from it for the loopback names."""
    if os.path.exists(TRUST_STORE) and time.time() - os.path.getmtime(TRUST_STORE) < DAYS_MAX_S:
        return
    shutil.rmtree(CERTIFICATES, ignore_errors=True)
    os.makedirs(CERTIFICATES)
    run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", DAYS,
        "-subj", "/CN=boltmux tests", "-keyout", "authority.key", "-out", "authority.crt")
    run("openssl", "req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost",
        "-keyout", "boltmux.key", "-out", "boltmux.csr")
    with open(os.path.join(CERTIFICATES, "names"), "w") as file:
        file.write("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    run("openssl", "x509", "-req", "-in", "boltmux.csr", "-CA", "authority.crt",
        "-CAkey", "authority.key", "-CAcreateserial", "-days", DAYS, "-extfile", "names",
        "-out", "boltmux.crt")
    run("keytool", "-importcert", "-noprompt", "-alias", "tests", "-file", "authority.crt",
        "-keystore", TRUST_STORE, "-storetype", "PKCS12", "-storepass", TRUST_STORE_PASSWORD)


def run(*argv):
    subprocess.run(argv, cwd=CERTIFICATES, check=True, stdin=subprocess.DEVNULL,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def trust():
    """What makes each client believe that authority; Java has its own way, see the catalogue."""
    return {"SSL_CERT_FILE": AUTHORITY, "NODE_EXTRA_CA_CERTS": AUTHORITY}


def proxy_flags(cells):
    """What boltmux needs beside the server's address to speak TLS, and plain, on its port."""
    if not any("+" in cell.scheme for cell in cells):
        return []
    return ["--cert", os.path.join(CERTIFICATES, "boltmux.crt"),
            "--key", os.path.join(CERTIFICATES, "boltmux.key")]
