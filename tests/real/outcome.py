"""What two runs of the same scenarios say about boltmux. Pure."""


def failed(outcome):
    """A scenario that ended in an error as a whole."""
    return isinstance(outcome, dict) and ("failed" in outcome or "error" in outcome)


def skipped(outcome):
    return isinstance(outcome, dict) and "skipped" in outcome


def compare(direct, through):
    """[(scenario, directly, through boltmux)] of all that is not the same, versions included."""
    names = list(direct["outcomes"]) + [
        name for name in through["outcomes"] if name not in direct["outcomes"]]
    missing = "it did not run"
    found = [(name, direct["outcomes"].get(name, missing), through["outcomes"].get(name, missing))
             for name in names]
    # Some clients do not tell the version, and nobody can look into their TLS.
    if direct["versions"] != through["versions"] and not through.get("untold"):
        found.append(("the Bolt version", direct["versions"], through["versions"]))
    return [entry for entry in found if entry[1] != entry[2]]


def tally(direct, through):
    """How many scenarios came out equal, failed both ways alike, and were left out."""
    counts = {"equal": 0, "fails": 0, "skipped": 0, "different": len(compare(direct, through))}
    for name, outcome in direct["outcomes"].items():
        if outcome == through["outcomes"].get(name):
            kind = "skipped" if skipped(outcome) else "fails" if failed(outcome) else "equal"
            counts[kind] += 1
    return counts
