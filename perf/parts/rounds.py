"""Interleaved rounds: what is measured, which rounds count, and what they say together."""

import itertools
import statistics
import time
from dataclasses import dataclass
from typing import Callable, NamedTuple

import machine
import programs

# Beyond this another program has used too much of the proxies' CPU during a round, or of all.
FOREIGN_SHARE_MAX = 0.05
# Beyond this HAProxy and its twin, which are the same, have not met the same conditions.
TWIN_DEVIATION_MAX = 0.15
# Rounds tried for each one that a start wants, before it has to do with fewer.
TRIES_PER_ROUND = 3

BASE, TWIN = "haproxy", "haproxy-twin"


@dataclass(frozen=True)
class Group:
    """What one call of the load generator measures: these contenders, with these options."""

    contenders: list
    options: list
    # Behind the contenders' names where a round has several groups.
    suffix: str = ""
    # Where the load runs; the plan's place if nothing is said.
    load: tuple = ()
    # Done before and after each measurement of the group.
    before: Callable | None = None
    after: Callable | None = None

    def named(self, contender):
        return contender.name + self.suffix


@dataclass(frozen=True)
class Round:
    """The numbers of every contender, by name, and the start of the programs they are of."""

    numbers: dict
    start: int = 1


class Ratios(NamedTuple):
    """Quartiles over rounds; the lowest and the highest median of a start if there were several."""

    low: float
    middle: float
    high: float
    starts: tuple | None = None


class Samples:
    """The rounds of one part."""

    def __init__(self, names, starts=1, rounds_each=None):
        self.names, self.good, self.disturbed = names, [], []
        # As asked for; of a start that was disturbed for long there are fewer.
        self.starts, self.rounds_each = starts, rounds_each
        # By group, in the order in which the part names them.
        self.commands = {}
        self.busy_max = 0.0

    @property
    def rounds(self):
        """Those that count; all of them if too few were undisturbed to have a median."""
        return self.good if len(self.good) >= 2 else self.good + self.disturbed

    @property
    def is_disturbed(self):
        return len(self.good) < 2

    def values(self, name, value):
        return [value(each.numbers[name]) for each in self.rounds]

    def median(self, name, value):
        return median(self.values(name, value))

    def ratios(self, name, value, base=BASE):
        """Of the numbers to those of `base` within each round; None if there is none."""
        by_start = {}
        for each in self.rounds:
            one, other = value(each.numbers[name]), value(each.numbers[base])
            if one is not None and other:
                by_start.setdefault(each.start, []).append(one / other)
        if not by_start:
            return None
        medians = [median(ratios) for ratios in by_start.values()]
        return Ratios(*quartiles(list(itertools.chain(*by_start.values()))),
                      (min(medians), max(medians)) if len(medians) > 1 else None)

    def errors(self, name):
        totals = {}
        for each in self.rounds:
            for kind, count in each.numbers[name]["errors"].items():
                totals[kind] = totals.get(kind, 0) + count
        return totals

    def raw(self):
        """The numbers of every round and its start, for the record's file of numbers."""
        kinds = {"counted": self.good, "disturbed": self.disturbed}
        return {**{kind: [numbers_of(each) for each in found] for kind, found in kinds.items()},
                **{f"starts_{kind}": [each.start for each in found]
                   for kind, found in kinds.items()}}


def numbers_of(a_round):
    return {name: {"rate": rate(target), "cpu_us": cpu(target), "p50_ms": p50(target),
                   "p99_ms": p99(target), "errors": target["errors"]}
            for name, target in a_round.numbers.items()}


def median(values):
    present = [value for value in values if value is not None]
    return statistics.median(present) if present else None


def quartiles(values):
    """Lower quartile, median, upper quartile."""
    if not values:
        return None
    if len(values) == 1:
        return (values[0],) * 3
    return tuple(statistics.quantiles(values, n=4, method="inclusive"))


def rate(target):
    return target["requests_per_second"]


def cpu(target):
    return target.get("cpu_us_per_request")


def p50(target):
    return target["latency_ms"] and target["latency_ms"]["p50"]


def p99(target):
    return target["latency_ms"] and target["latency_ms"]["p99"]


def turned(contenders, turn):
    """Another order each time: rotated, and turned around every second time."""
    at = turn // 2 % len(contenders)
    order = contenders[at:] + contenders[:at]
    return order[::-1] if turn % 2 else order


def is_disturbed(numbers, foreign_shares, base, twin):
    """Judged by what is not compared: other programs, and how far the base is from its twin."""
    if max(foreign_shares) > FOREIGN_SHARE_MAX:
        return True
    if twin not in numbers:
        return False
    one, other = cpu(numbers[base]), cpu(numbers[twin])
    return not one or not other or abs(other / one - 1) > TWIN_DEVIATION_MAX


def measure(groups, plan, label, base=BASE, twin=TWIN, proxy_cpu=True):
    """`plan.starts` starts of the programs, and after each `plan.rounds` rounds that were not
    disturbed. Every round measures every group."""
    contenders = [each for group in groups for each in group.contenders]
    samples = Samples([group.named(each) for group in groups for each in group.contenders],
                      plan.starts, plan.rounds)
    samples.commands = {id(group): "" for group in groups}
    started = list(dict.fromkeys(each.program for each in contenders))
    cpu_alone = plan.layout.proxy if proxy_cpu else None
    turns = itertools.count()
    for start in range(1, plan.starts + 1):
        # If there is only one it is the one that they have had.
        if plan.starts > 1:
            plan.programs.start_anew(turned(started, start - 1))
        good_before = len(samples.good)
        for turn in itertools.islice(turns, plan.rounds * TRIES_PER_ROUND):
            watch = machine.Watch(machine.allowed_cpus(), cpu_alone, plan.programs.proxy_pids(),
                                  plan.programs.pids(), time.monotonic())
            numbers = take_round(groups, plan, turn, samples)
            foreign = watch.foreign_shares(time.monotonic())
            is_bad = is_disturbed(numbers, foreign, base, twin)
            (samples.disturbed if is_bad else samples.good).append(Round(numbers, start))
            good = len(samples.good) - good_before
            print(f"{label}: start {start} of {plan.starts}, {good} of {plan.rounds} rounds, "
                  f"{len(samples.disturbed)} disturbed in all, others used "
                  + " and ".join(f"{share:.0%}" for share in foreign), flush=True)
            if good == plan.rounds:
                break
    return samples


def take_round(groups, plan, turn, samples):
    numbers = {}
    for group in turned(groups, turn):
        if group.before:
            group.before()
        found, command, whole = programs.boltload(
            turned(group.contenders, turn), [*group.options, *plan.times],
            list(group.load) or plan.layout.load, plan.folder)
        if group.after:
            group.after()
        numbers.update({name + group.suffix: target for name, target in found.items()})
        samples.commands[id(group)] = command
        samples.busy_max = max(samples.busy_max, whole["generator_busy"] or 0)
    return numbers
