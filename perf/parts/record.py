"""The record: a dated page of Markdown, with nothing in it that names the machine.

A record is made of parts, each a set of interleaved rounds of its own. It may be completed by later
calls: its numbers are kept beside it as JSON. A part that is taken anew replaces the one before,
and the record then says what that one had measured, so that nobody can pick the better one unseen.
"""

import datetime
import json
import os
import subprocess
import textwrap

import machine
from rounds import BASE, cpu, p50, p99, rate

FOLDER = "perf/records"
LINE_LETTERS = 100
GOAL_HEAD = ["what", "goal", "measured", "quartiles", "noise", "met"]


class Part:
    """What one part has measured: lines for the table of goals, tables, drawings, numbers."""

    def __init__(self, name, base=BASE):
        self.name, self.base = name, base
        self.goals, self.texts, self.drawings, self.raw = [], [], {}, {}
        self.facts = {}

    def goal(self, what, goal, ratios, noise=None, is_at_least=False, limit=None):
        """One line of the first table. `ratios` and `noise` are Ratios."""
        if ratios is None:
            return self.skip(what, goal, "no numbers")
        is_met = ratios.middle >= limit if is_at_least else ratios.middle <= limit
        quartiles = f"{ratios.low:.2f}–{ratios.high:.2f}{between_starts(ratios)}"
        self.line(what, goal, f"{ratios.middle:.2f}", quartiles, spread(noise), is_met)

    def line(self, what, goal, measured, quartiles="", noise="", is_met=None):
        met = {True: "yes", False: "**no**", None: ""}[is_met]
        self.goals.append([what, goal, measured, quartiles, noise, met])

    def skip(self, what, goal, why):
        self.line(what, goal, f"not measured: {why}")

    def table(self, title, samples, per_unit=None, bases=None):
        """Medians and ratios of each contender, and the commands. `bases` names each one's base."""
        note = f"{len(samples.rounds)} rounds counted, {len(samples.disturbed)} were disturbed"
        if samples.starts > 1:
            each = f"{samples.rounds_each} round{'s' if samples.rounds_each > 1 else ''}"
            note = f"{samples.starts} starts of {each}: {note}"
            lost = samples.starts - len({each.start for each in samples.rounds})
            note += f"; of {lost} of the starts no round counts" if lost else ""
        if samples.is_disturbed and samples.disturbed:
            note += " and are **counted all the same**, since fewer than two were not"
        if samples.busy_max > 0.9:
            note += f"; the load generator was busy ({samples.busy_max:.0%}): rates are its limit"
        bases = bases or {name: self.base for name in samples.names}
        rows = [row(samples, name, per_unit, bases[name]) for name in samples.names]
        unit = per_unit[0] if per_unit else "CPU µs/request"
        head = ["", "requests/s", unit, "p50 ms", "p99 ms", "CPU ratio", "p50 ratio",
                "p99 ratio", "rate ratio", "errors"]
        commands = "\n".join(as_code(command) for command in dict.fromkeys(
            samples.commands.values()))
        note = textwrap.fill(f"{note}.", LINE_LETTERS)
        self.text(f"### {title}\n\n{note}\n\n{table(head, rows)}\n{commands}")
        self.raw[title] = samples.raw()

    def text(self, text):
        self.texts.append(text.rstrip() + "\n")

    def draw(self, name, svg):
        if svg:
            self.drawings[name] = svg

    def to_json(self, earlier, took_s):
        taken = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
        return {"taken": taken, "took_s": round(took_s), "source": revision(),
                "load": machine.load_average(), "goals": self.goals, "texts": self.texts,
                "drawings": sorted(self.drawings), "facts": self.facts, "earlier": earlier,
                "rounds": self.raw}


def row(samples, name, per_unit, base):
    factor = per_unit[1] if per_unit else 1
    used = samples.median(name, cpu)
    # The main figure alone says how far the starts are apart: a table with all is too wide.
    ratios = [spread(samples.ratios(name, value, base), has_starts=value is cpu)
              if name != base else "" for value in (cpu, p50, p99, rate)]
    errors = ", ".join(f"{count} × {kind}" for kind, count in samples.errors(name).items())
    return [name, number(samples.median(name, rate), 0),
            number(used and used * factor, 2), number(samples.median(name, p50), 3),
            number(samples.median(name, p99), 3), *ratios, errors or "0"]


class Record:
    """All parts. `order` has the names of those that a whole record has."""

    def __init__(self, title, head, order, is_quick=False, base=BASE, path=None, summary=None):
        self.title, self.head, self.order, self.base = title, head, order, base
        self.is_quick, self.summary = is_quick, summary
        self.date = datetime.date.today().isoformat()
        self.path = path or self.free_path()
        self.parts, self.commands = {}, []
        if os.path.exists(self.numbers_path):
            self.load()

    @property
    def noise(self):
        """What the table's column of noise holds."""
        if self.base != BASE:
            return "The column of noise says what stands beside a number.\n"
        return ("Behind *starts* stand the lowest and the highest median of a single\nstart of the "
                "programs. The twin is a second HAProxy: what it differs by is noise.\n")

    @property
    def numbers_path(self):
        return self.path.removesuffix(".md") + ".json"

    def free_path(self):
        stem = f"{FOLDER}/{self.date}-{self.title.split()[0].lower()}"
        stem += "-quick" if self.is_quick else ""
        path, count = f"{stem}.md", 1
        while os.path.exists(path):
            count += 1
            path = f"{stem}-{count}.md"
        return path

    def load(self):
        with open(self.numbers_path) as file:
            kept = json.load(file)
        if kept["head"] != self.head or kept["is_quick"] != self.is_quick:
            raise SystemExit(f"{self.numbers_path} is of another machine, layout or length:\n"
                             f"  there: {kept['head']}\n  here:  {self.head}\nstart a new record")
        self.date, self.parts, self.commands = kept["date"], kept["parts"], kept["commands"]

    def add(self, part, took_s):
        """Takes a part in, which took so long, and writes the whole record, so that what is
        measured is never lost."""
        before, earlier = self.parts.get(part.name), []
        if before:
            measured = "; ".join(f"{line[0]}: {line[2]}" for line in before["goals"])
            earlier = [*before["earlier"],
                       f"{before['taken']}, source {before['source']}: {measured}"]
        self.parts[part.name] = part.to_json(earlier, took_s)
        os.makedirs(FOLDER, exist_ok=True)
        for name, svg in part.drawings.items():
            with open(self.drawing_path(name), "w") as file:
                file.write(svg)
        self.write()

    def drawing_path(self, name):
        return f"{self.path.removesuffix('.md')}-{name}.svg"

    def write(self):
        kept = {"date": self.date, "is_quick": self.is_quick, "head": self.head,
                "commands": self.commands, "parts": self.parts}
        for path, text in ((self.numbers_path, json.dumps(kept, indent=1, ensure_ascii=False)),
                           (self.path, self.page())):
            with open(path, "w") as file:
                file.write(text.rstrip() + "\n")

    def taken(self):
        """The parts that there are, in the order of a whole record."""
        return [(name, self.parts[name]) for name in self.order if name in self.parts]

    def page(self):
        warning = ("**A quick run: it shows that the command works. Its rounds are too short and "
                   "too few to\nsay what boltmux costs.**\n\n" if self.is_quick else "")
        lines = [*self.head, *(f"command: `{command}`" for command in self.commands)]
        sources = {part["source"] for _, part in self.taken()}
        lines.append(f"source: {', '.join(sorted(sources))}")
        if len(sources) > 1:
            lines.append("**parts are of several sources**; each says of which")
        missing = [name for name in self.order if name not in self.parts]
        if missing:
            lines.append(f"not taken: {', '.join(missing)}")
        head = "\n".join(textwrap.fill(f"- {line}", 98, subsequent_indent="  ",
                                       break_long_words=False, break_on_hyphens=False)
                         for line in lines)
        parts = "\n".join(self.part_text(name, part) for name, part in self.taken())
        return (f"# {self.title}, {self.date}\n\n{warning}{head}\n\n"
                f"Ratios are medians of the ratios to {self.base} within one round, with their "
                f"quartiles; 0.90 is\nten per cent less than it. {self.noise}"
                f"[The method](../method.md) says why.\n\n{self.goals_table()}\n{parts}")

    def part_text(self, name, part):
        took = f" in {part['took_s']} s" if "took_s" in part else ""
        said = (f"Taken {part['taken']}{took}, source {part['source']}; load average before it "
                f"was written (1, 5, 15 minutes): {part['load']}.")
        earlier = "".join(f"\nTaken anew; before, at {each}.\n" for each in part["earlier"])
        drawings = [os.path.basename(self.drawing_path(each)) for each in part["drawings"]]
        drawings = "".join(f"\n![{each}]({each})\n" for each in drawings)
        said, earlier = (textwrap.fill(text, 98) for text in (said, earlier))
        said = f"{said}\n" + (f"\n{earlier}\n" if earlier else "")
        return f"## {name}\n\n{said}{drawings}\n" + "\n".join(part["texts"])

    def goals_table(self):
        goals = [line for _, part in self.taken() for line in part["goals"]]
        summary = self.summary(dict(self.taken())) if self.summary else []
        return table(GOAL_HEAD, [*goals, *summary])


def revision():
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    return done.stdout.strip() or "unknown"


def as_code(command):
    """A command that is longer than a line, so that it can be pasted."""
    lines = textwrap.wrap(command, 92, break_long_words=False, break_on_hyphens=False)
    return "    " + " \\\n        ".join(lines)


def number(value, digits):
    return "-" if value is None else f"{value:,.{digits}f}"


def spread(ratios, has_starts=True):
    if ratios is None:
        return ""
    behind = between_starts(ratios) if has_starts else ""
    return f"{ratios.middle:.2f} [{ratios.low:.2f}–{ratios.high:.2f}]{behind}"


def between_starts(ratios):
    return f", starts {ratios.starts[0]:.2f}–{ratios.starts[1]:.2f}" if ratios.starts else ""


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"
