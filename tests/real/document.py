"""Writes COMPATIBILITY.md from the results of a run: nothing in it is written by hand.

Its last line is a digest of the rest: `tests/tidy.rs` notices a change by hand.
"""

import os
import subprocess
import textwrap
import time

from catalogue import CLIENTS, SERVERS, SPOILS_ARCADEDB
from outcome import compare, failed, skipped, tally
from support import REPOSITORY

PATH = os.path.join(REPOSITORY, "COMPATIBILITY.md")
# Where the scenarios stand of programs whose first source is something else.
PROGRAMS = {"harness.py": "scenarios.py", "node.mjs": "scenarios.mjs",
            "chromium.mjs": "scenarios.mjs"}
SPOILT = ("it keeps the database that a request named for later requests of the same connection"
          " that name none, also directly. Behind boltmux these may be those of another client with"
          " the same user. So name the database in every session.")
DIGEST = "<!-- digest of the lines above: {} -->"

HEAD = """\
# What works with what

Written by `tests/real/matrix` from a run of {date} with {version}; not edited by hand.

Each client ran its scenarios twice against each server: directly and through boltmux with
`pool.size = 4` on {shards} shards. A scenario is **equal** when values, counters, error codes and
classes of errors came out the same both ways, and both runs agreed on the same Bolt version.
`31 + 2` means: 31 scenarios equal, 2 that fail directly in the same way too. **Bold** means that
something differed. `-` means that the client cannot do this. With `+s` and `+ssc`, clients spoke
TLS to boltmux, which counted their handshakes, and none to the server.

{equal} scenarios were equal, {fails} failed both ways alike, {different} differed; {run} of {cells}
cells were run{other}.

"""


def write(cells, results_of, proxy, shards, schemes_off):
    """`results_of(cell)` is {"direct": result or None, "through": result or None}."""
    results = {cell: results_of(cell) for cell in cells}
    known = {cell: both for cell, both in results.items() if None not in both.values()}
    totals = {"equal": 0, "fails": 0, "different": 0}
    for both in known.values():
        counts = tally(both["direct"], both["through"])
        for kind in totals:
            totals[kind] += counts[kind]
    text = HEAD.format(date=max((both["through"]["date"] for both in known.values()),
                                default=time.strftime("%Y-%m-%d")),
                       version=version_of(proxy), shards=shards, run=len(known),
                       cells=len(cells), other=other_builds(known), **totals)
    for server in SERVERS.values():
        text += server_section(server, cells, known)
    text += versions_section(cells, known)
    text += reasons_section(known, schemes_off)
    text += scenarios_section(known)
    with open(PATH, "w") as file:
        file.write(text + DIGEST.format(digest_of(text)) + "\n")
    print(f"wrote {PATH}")


def other_builds(known):
    count = sum(both["through"].get("other_build", False) for both in known.values())
    return f", {count} of them with an earlier build" if count else ""


def digest_of(text):
    """FNV-1a of 64 bits, in hexadecimal: short enough to stand in a test of another language."""
    digest = 0xcbf29ce484222325
    for byte in text.encode():
        digest = (digest ^ byte) * 0x100000001b3 & 0xffffffffffffffff
    return f"{digest:016x}"


def version_of(proxy):
    told = subprocess.run([proxy, "version"], capture_output=True, text=True).stdout.strip()
    return told.splitlines()[0] if told else "boltmux"


def table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines) + "\n"


def server_section(server, cells, known):
    plain = [cell for cell in cells if cell.server == server.name and cell.version is None]
    schemes = list(dict.fromkeys(cell.scheme for cell in plain))
    rows = []
    for client in CLIENTS.values():
        mine = {cell.scheme: cell for cell in plain if cell.client == client.name}
        if mine:
            rows.append([client.title, bolt_versions(mine.values(), known),
                         *(scheme_entry(mine.get(scheme), known) for scheme in schemes)])
    head = ["client", "Bolt", *(f"`{scheme}://`" for scheme in schemes)]
    return f"## {server.title}\n\n" + table(head, rows)


def bolt_versions(cells, known):
    versions = {version for cell in cells if cell in known
                for version in known[cell]["through"]["versions"]}
    return ", ".join(sorted(versions)) or "not told"


def scheme_entry(cell, known):
    if cell is None:
        return "-"
    if cell not in known:
        return "not run"
    direct, through = known[cell]["direct"], known[cell]["through"]
    counts = tally(direct, through)
    entry = f"{counts['equal']}" + (f" + {counts['fails']}" if counts["fails"] else "")
    return entry + (f", **{counts['different']} differ**" if counts["different"] else "")


def versions_section(cells, known):
    narrow = [cell for cell in cells if cell.version is not None]
    text = ("## One Bolt version at a time\n\n"
            "A relay between client and server, or client and boltmux, left the client only this"
            " version.\nThe core of the scenarios ran.\n\n")
    for server in SERVERS.values():
        mine = [cell for cell in narrow if cell.server == server.name]
        versions = [version for version in server.versions
                    if any(cell.version == version for cell in mine)]
        clients = list(dict.fromkeys(cell.client for cell in mine))
        rows = [[CLIENTS[client].title,
                 *(scheme_entry(next((cell for cell in mine if cell.client == client
                                      and cell.version == version), None), known)
                   for version in versions)] for client in clients]
        text += f"### {server.title}\n\n" + table(["client", *versions], rows)
    return text


def reasons_section(known, schemes_off):
    """What is not equal, and what could not be tried: each once, with where."""
    differing, failing, left_out = {}, {}, {}
    for cell, both in known.items():
        place = f"{SERVERS[cell.server].title}, {CLIENTS[cell.client].title}"
        for name, _, _ in compare(both["direct"], both["through"]):
            differing.setdefault(f"{place}, `{cell.version or cell.scheme}`", []).append(name)
        for name, outcome in both["direct"]["outcomes"].items():
            if outcome != both["through"]["outcomes"].get(name):
                continue
            if failed(outcome):
                code = outcome.get("error") or outcome.get("failed")
                failing.setdefault((place, name, code), []).append(cell.version or cell.scheme)
            elif skipped(outcome):
                why = outcome["skipped"].replace("this server", SERVERS[cell.server].title)
                left_out.setdefault((CLIENTS[cell.client].title, why), set()).add(name)
    text = "## What differed\n\n" + bullets(
        f"{place}: {', '.join(f'`{name}`' for name in sorted(names))}"
        for place, names in sorted(differing.items()))
    text += "## What fails directly too\n\n" + bullets(
        f"{place}: `{name}` comes to `{code}` ({', '.join(dict.fromkeys(where))})"
        for (place, name, code), where in sorted(failing.items()))
    notes = [f"`{scheme}://`: {why}" for scheme, why in schemes_off.items()]
    notes.append(f"{SERVERS['arcadedb'].title}: "
                 + ", ".join(f"`{name}`" for name in SPOILS_ARCADEDB) + ": " + SPOILT)
    notes += [f"{client}: {', '.join(f'`{name}`' for name in sorted(names))}: {why}"
              for (client, why), names in sorted(left_out.items())]
    return text + "## What was left out\n\n" + bullets(notes)


def bullets(texts):
    lines = [textwrap.fill(text, 100, initial_indent="- ", subsequent_indent="  ",
                           break_on_hyphens=False) for text in texts]
    return "\n".join(lines or ["Nothing."]) + "\n\n"


def scenarios_section(known):
    """The names, per program, of everything that ran."""
    names = {}
    for cell, both in known.items():
        program = CLIENTS[cell.client].sources[0]
        ran = [name for name, outcome in both["direct"]["outcomes"].items()
               if not skipped(outcome)]
        names.setdefault(PROGRAMS.get(program, program), {}).update(dict.fromkeys(ran))
    return "## The scenarios\n\n" + bullets(
        f"`tests/real/{program}`, {len(found)}: " + ", ".join(sorted(found))
        for program, found in names.items())
