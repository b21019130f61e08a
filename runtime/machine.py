"""What the machine has: cores and memory, and whether a plan fits."""

from __future__ import annotations

import os
from pathlib import Path

from fhecompile.errors import EXIT_ENVIRONMENT, FheCompileError
from fhecompile.plan import Plan


def usable_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available_bytes() -> int | None:
    """Memory that can be had without swapping; None where the system does not say."""
    meminfo = Path("/proc/meminfo")
    available = None
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                available = int(line.split()[1]) * 1024
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.exists():
        text = limit.read_text().strip()
        if text.isdigit():
            used = Path("/sys/fs/cgroup/memory.current")
            free = int(text) - (int(used.read_text()) if used.exists() else 0)
            available = free if available is None else min(available, free)
    return available


def resident_bytes() -> int:
    """Memory this process holds now."""
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


def peak_bytes() -> int:
    """Most memory this process has held so far."""
    # Not ru_maxrss: a process inherits the peak of the one that started it.
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def check_memory(plan: Plan, available: int | None = None) -> None:
    """Raises when an encrypted run needs more memory than there is."""
    available = available_bytes() if available is None else available
    needed = plan.program.prediction.peak_bytes
    if available is not None and needed > available:
        raise FheCompileError(
            "not-enough-memory",
            f"an encrypted run needs about {needed / 2**30:.1f} GiB of memory, "
            f"{available / 2**30:.1f} GiB are free",
            hint="free some memory, use a bigger machine, or run with --mode simulate",
            exit_code=EXIT_ENVIRONMENT,
        )
