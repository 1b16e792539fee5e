"""How long a record takes: what was expected, put right by what its parts have taken. Pure."""

from dataclasses import dataclass
from typing import Callable

# Beside its time a turn connects its clients, and starts and ends the load generator.
TURN_FURTHER_S = 0.4
# To end a program and to start it until it is ready for clients.
START_S = 0.2


@dataclass(frozen=True)
class Planned:
    """A part of a record. A turn is one contender in one round."""

    take: Callable
    said: str
    turns: int
    # Fewer rounds in all where a part judges nothing, or has many turns.
    rounds_max: int = 1000
    # Seconds of all that is done once, or in addition to the rounds' own time.
    further_s: float = 0.0
    # Its programs are started once, and all rounds are of that start.
    is_one_start: bool = False
    # Its rounds are so many times as long as others'.
    stretch: float = 1.0

    def split(self, starts, rounds):
        """Its starts and the rounds of each, where others have so many."""
        rounds_max = min(starts * rounds, self.rounds_max)
        return (1, rounds_max) if self.is_one_start else (starts, max(rounds_max // starts, 1))

    def seconds(self, starts, rounds, round_seconds):
        starts, rounds = self.split(starts, rounds)
        round_s = round_seconds * self.stretch + TURN_FURTHER_S
        turn_s = rounds * round_s + (START_S if starts > 1 else 0)
        return starts * self.turns * turn_s + self.further_s


class Remaining:
    """`expected` has the seconds of each part that will be taken."""

    def __init__(self, expected):
        self.expected, self.left = dict(expected), dict(expected)
        self.taken_s = 0.0

    def done(self, name, seconds):
        self.left.pop(name)
        self.taken_s += seconds

    @property
    def slower(self):
        """Disturbed rounds and a slow machine are expected to go on as they were."""
        expected = sum(self.expected.values()) - sum(self.left.values())
        return self.taken_s / expected if expected else 1.0

    @property
    def seconds(self):
        return sum(self.left.values()) * self.slower

    def fits(self, name, within_s):
        """Whether this part will end before so much time has passed since the first began."""
        return self.taken_s + self.expected[name] * self.slower <= within_s

    def __str__(self):
        if not self.left:
            return "nothing left"
        minutes = self.seconds / 60
        time = f"{minutes:.0f} minutes" if minutes >= 2 else f"{self.seconds:.0f} s"
        parts = f"{len(self.left)} part{'s' if len(self.left) > 1 else ''}"
        return f"about {time} left for {parts}"
