"""The record: a dated page of Markdown, with nothing in it that names the machine."""

import datetime
import os
import subprocess
import textwrap

import machine
from rounds import BASE, cpu, p50, p99, rate

FOLDER = "perf/records"


class Record:
    def __init__(self, title, is_quick, head, base=BASE):
        self.title, self.is_quick, self.head, self.base = title, is_quick, head, base
        self.goals, self.parts = [], []

    def goal(self, what, goal, ratios, noise=None, is_at_least=False, limit=None):
        """One line of the first table. `ratios` and `noise` are quartiles."""
        if ratios is None:
            return self.skip(what, goal, "no numbers")
        is_met = ratios[1] >= limit if is_at_least else ratios[1] <= limit
        self.goals.append((what, goal, f"{ratios[1]:.2f}", f"{ratios[0]:.2f}–{ratios[2]:.2f}",
                           spread(noise), "yes" if is_met else "no"))

    def skip(self, what, goal, why):
        self.goals.append((what, goal, f"not measured: {why}", "", "", ""))

    def part(self, title, samples, per_unit=None):
        """A shape: medians and ratios of each contender, and its command."""
        note = f"{len(samples.rounds)} rounds, {len(samples.disturbed)} were disturbed"
        if samples.is_disturbed:
            note += " and are **counted all the same**, since fewer than two were not"
        if samples.busy_max > 0.9:
            note += f"; the load generator was busy ({samples.busy_max:.0%}): rates are its limit"
        rows = [self.row(samples, name, per_unit) for name in samples.names]
        unit = per_unit[0] if per_unit else "CPU µs/request"
        head = ["", "requests/s", unit, "p50 ms", "p99 ms", "CPU ratio", "p50 ratio",
                "p99 ratio", "rate ratio", "errors"]
        self.text(f"## {title}\n\n{note}.\n\n{table(head, rows)}\n"
                  f"{as_code(samples.command)}")

    def row(self, samples, name, per_unit):
        factor = per_unit[1] if per_unit else 1
        used = samples.median(name, cpu)
        ratios = [spread(samples.ratios(name, value, self.base)) if name != self.base else ""
                  for value in (cpu, p50, p99, rate)]
        errors = ", ".join(f"{count} × {kind}" for kind, count in samples.errors(name).items())
        return [name, number(samples.median(name, rate), 0),
                number(used and used * factor, 2), number(samples.median(name, p50), 3),
                number(samples.median(name, p99), 3), *ratios, errors or "0"]

    def text(self, text):
        self.parts.append(text.rstrip() + "\n")

    def write(self):
        os.makedirs(FOLDER, exist_ok=True)
        today = datetime.date.today().isoformat()
        stem = f"{today}-{self.title.split()[0].lower()}{'-quick' if self.is_quick else ''}"
        path, count = f"{FOLDER}/{stem}.md", 1
        while os.path.exists(path):
            count += 1
            path = f"{FOLDER}/{stem}-{count}.md"
        with open(path, "w") as file:
            file.write(self.page(today))
        return path

    def page(self, today):
        warning = ("**A quick run: it shows that the command works. Its rounds are too short and "
                   "too few to\nsay what boltmux costs.**\n\n" if self.is_quick else "")
        lines = "\n".join(f"- {line}" for line in [*self.head, f"source: {revision()}"])
        return (f"# {self.title}, {today}\n\n{warning}{lines}\n\n"
                f"Ratios are medians of the ratios to {self.base} within one round, with their "
                "quartiles; 0.90 is\nten per cent less than it. [The method](../method.md) says "
                f"why.\n\n{self.goals_table()}\n" + "\n".join(self.parts))

    def goals_table(self):
        return table(["what", "goal", "measured", "quartiles", "noise (twin)", "met"], self.goals)


def revision():
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    return done.stdout.strip() or "unknown"


def head_of(layout, command, versions):
    return [*machine.describe(), layout.describe(), *versions, f"command: `{command}`"]


def as_code(command):
    """A command that is longer than a line, so that it can be pasted."""
    lines = textwrap.wrap(command, 92, break_long_words=False, break_on_hyphens=False)
    return "    " + " \\\n        ".join(lines)


def number(value, digits):
    return "-" if value is None else f"{value:,.{digits}f}"


def spread(ratios):
    return "" if ratios is None else f"{ratios[1]:.2f} [{ratios[0]:.2f}–{ratios[2]:.2f}]"


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"
