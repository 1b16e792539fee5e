"""What this machine is, which CPUs do what, and who else uses them.

Owns no processes. Times of /proc are in ticks of 10 ms (USER_HZ).
"""

import os
import platform
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


def listed(cpus):
    return ",".join(str(cpu) for cpu in cpus)


def allowed_cpus():
    return sorted(os.sched_getaffinity(0))


def describe():
    """Lines for a record: nothing that names the machine."""
    with open("/proc/cpuinfo") as file:
        models = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    with open("/proc/meminfo") as file:
        kibibytes = int(file.readline().split()[1])
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return [f"{len(allowed_cpus())} CPUs, {models[0] if models else platform.machine()}, "
            f"{kibibytes / (1 << 20):.0f} GiB memory",
            f"Linux {platform.release().split('-')[0]}",
            f"load average at the start (1, 5, 15 minutes): {load}"]


def process_ticks(pid):
    """CPU time of a process with all its threads."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rsplit(") ", 1)[1].split()
    return int(fields[11]) + int(fields[12])


def resident_bytes(pid):
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def cpu_ticks(cpu):
    """Ticks of one CPU: used by programs, and stolen by the hypervisor."""
    with open("/proc/stat") as file:
        for line in file:
            name, *fields = line.split()
            if name == f"cpu{cpu}":
                user, nice, system = (int(field) for field in fields[:3])
                return user + nice + system, int(fields[7])
    raise SystemExit(f"expected cpu{cpu} in /proc/stat")


class Watch:
    """How much of a CPU others have used since it was made, as a share of the time."""

    def __init__(self, cpu, pids, now):
        self.cpu, self.pids, self.start = cpu, pids, now
        self.used, self.stolen = cpu_ticks(cpu)
        self.own = sum(process_ticks(pid) for pid in pids)

    def foreign_share(self, now):
        used, stolen = cpu_ticks(self.cpu)
        own = sum(process_ticks(pid) for pid in self.pids) - self.own
        # Time in interrupts counts for a process on some kernels only, so this errs downwards.
        foreign = max(0, used - self.used - own) + stolen - self.stolen
        return foreign / TICKS_PER_SECOND / max(now - self.start, 0.01)
