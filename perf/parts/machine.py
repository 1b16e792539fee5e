"""What this machine is, which CPUs do what, and who else uses them.

Owns no processes. Times of /proc are in ticks of 10 ms (USER_HZ).
"""

import os
import platform
import resource
from dataclasses import dataclass

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Layout:
    """Who runs where. The proxies share one CPU, so that none has the better one."""

    server: list
    proxy: int
    load: list

    @staticmethod
    def of(cpus):
        """With two CPUs server and load share one; from eight on the server has two."""
        if len(cpus) < 2:
            raise SystemExit("expected at least 2 CPUs: one is the proxies' alone")
        if len(cpus) == 2:
            return Layout([cpus[0]], cpus[1], [cpus[0]])
        if len(cpus) < 8:
            return Layout([cpus[0]], cpus[1], cpus[2:])
        return Layout(cpus[:2], cpus[2], cpus[3:])

    def describe(self):
        shared = " (shared)" if self.server == self.load else ""
        return (f"server on CPU {listed(self.server)}, proxies on CPU {self.proxy}, "
                f"load on CPU {listed(self.load)}{shared}")


@dataclass(frozen=True)
class Spread:
    """A layout for several shards."""

    server: list
    proxies: list
    load: list

    @staticmethod
    def of(cpus, shards):
        """Up to half of the CPUs are the shards', the first half is server's and load's: so they
        have the same ones whether one shard runs or several. Beyond that the shards take from
        them."""
        half = len(cpus) // 2
        if shards <= half and half > 1:
            return Spread(cpus[:half // 2], cpus[half:half + shards], cpus[half // 2:half])
        rest, proxies = cpus[:len(cpus) - shards], cpus[len(cpus) - shards:]
        if len(rest) < 2:
            # One CPU is left for both; with none they go wherever the shards are.
            rest = rest or cpus
            return Spread(rest, proxies, rest)
        return Spread(rest[:len(rest) // 2], proxies, rest[len(rest) // 2:])

    def describe(self):
        both = set(self.server) & set(self.proxies)
        shared = " (everything shares)" if both else " (shared)" if self.server == self.load else ""
        return (f"shards on CPU {listed(self.proxies)}, server on CPU {listed(self.server)}, "
                f"load on CPU {listed(self.load)}{shared}")


def listed(cpus):
    return ",".join(str(cpu) for cpu in cpus)


def allowed_cpus():
    return sorted(os.sched_getaffinity(0))


def load_average():
    return ", ".join(f"{value:.1f}" for value in os.getloadavg())


def describe():
    """Lines for a record: nothing that names the machine."""
    with open("/proc/cpuinfo") as file:
        models = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    with open("/proc/meminfo") as file:
        kibibytes = int(file.readline().split()[1])
    return [f"{len(allowed_cpus())} CPUs, {models[0] if models else platform.machine()}, "
            f"{kibibytes / (1 << 20):.0f} GiB memory",
            f"Linux {platform.release().split('-')[0]}"]


def process_ticks(pid):
    """CPU time of a process with all its threads."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rsplit(") ", 1)[1].split()
    return int(fields[11]) + int(fields[12])


def own_ticks():
    """CPU time of this process and of the children that have ended: the load generator's."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used) * TICKS_PER_SECOND


def resident_bytes(pid):
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def cpu_ticks(cpus):
    """Ticks of these CPUs together: used by programs, and stolen by the hypervisor."""
    wanted, found = {f"cpu{cpu}" for cpu in cpus}, []
    with open("/proc/stat") as file:
        for line in file:
            name, *fields = line.split()
            if name in wanted:
                user, nice, system = (int(field) for field in fields[:3])
                found.append((user + nice + system, int(fields[7])))
    if len(found) != len(wanted):
        raise SystemExit(f"expected {', '.join(sorted(wanted))} in /proc/stat")
    return tuple(map(sum, zip(*found)))


class Watch:
    """How much of the CPUs others have used since it was made.

    `proxies` are the only processes of ours on `proxy_cpu`; `pids` are all that run.
    """

    def __init__(self, cpus, proxy_cpu, proxies, pids, now):
        self.parts = [Part(cpus, pids, own_ticks)]
        if proxy_cpu is not None:
            self.parts.append(Part([proxy_cpu], proxies, lambda: 0))
        self.start = now

    def foreign_shares(self, now):
        """Of all CPUs together, and of the proxies' alone if there is one."""
        seconds = max(now - self.start, 0.01)
        return [part.foreign_ticks() / TICKS_PER_SECOND / seconds / len(part.cpus)
                for part in self.parts]


class Part:
    def __init__(self, cpus, pids, others):
        self.cpus, self.pids, self.others = cpus, pids, others
        self.used, self.stolen = cpu_ticks(cpus)
        self.own = self.own_now()

    def own_now(self):
        return sum(process_ticks(pid) for pid in self.pids) + self.others()

    def foreign_ticks(self):
        used, stolen = cpu_ticks(self.cpus)
        # Time in interrupts counts for a process on some kernels only, so this errs downwards.
        foreign = used - self.used - (self.own_now() - self.own)
        return max(0, foreign) + stolen - self.stolen
