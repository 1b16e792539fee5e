"""What has to be made before the matrix can run: the programs that need a compiler.

They are built in the folders that tests/install made, and again only when their source changed.
"""

import os
import re
import subprocess

from catalogue import CLIENTS, HERE
from support import CACHE

# The schemes that boltmux accepts clients on, and why the others are not tried.
SCHEMES = ("bolt", "neo4j")
SCHEMES_OFF = {}


def programs(names):
    """Builds what these clients need."""
    for name in names:
        family, _, version = name.partition("-")
        if family == "go":
            build_go(version)
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


def build_neo4rs():
    program = CLIENTS["neo4rs"].argv[0]
    folder = os.path.dirname(os.path.dirname(os.path.dirname(program)))
    with open(os.path.join(HERE, "neo4rs", "src", "main.rs")) as file:
        source = file.read()
    if put(os.path.join(folder, "src", "main.rs"), source, program):
        subprocess.run(["cargo", "build", "--quiet"], cwd=folder, check=True,
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


def trust():
    """What makes each client believe the tests' own certificate authority."""
    return {}


def proxy_options():
    """What boltmux needs beside the server's address."""
    return {}
