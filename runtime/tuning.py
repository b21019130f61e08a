"""The environment a process that evaluates ciphertexts should start with.

OpenFHE allocates vectors of half a megabyte by the thousand. glibc's default thresholds give such
memory back to the system and fetch it again, page by page; higher ones keep it. They only hold for
its first arena, so that all threads have to share that one. OpenMP may use every core inside one
operation, but must not spin for work: the executor lets it where other threads wait
(`runtime.backends.openmp`). Both are read when a process starts, so the process replaces itself
once, by the same program with these variables; what the user has set stays. Where
`python -m runtime.calibrate` has found that OpenMP threads always pay, their number is the one it
stored.
"""

from __future__ import annotations

import os
import sys

from runtime.costs import find_costs
from runtime.processor import usable_cores

GUARD = "FHECOMPILE_TUNED"
SETTINGS = {
    "OMP_NUM_THREADS": str(usable_cores()),
    "OMP_WAIT_POLICY": "passive",
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_TRIM_THRESHOLD_": str(16 << 30),
    "MALLOC_TOP_PAD_": str(64 << 20),
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),  # the largest value glibc takes
}


def tune_process() -> None:
    """Starts the running program again with `SETTINGS`, unless this is that second start."""
    if GUARD in os.environ or not sys.platform.startswith("linux") or not sys.executable:
        return
    environment = {**SETTINGS, **_measured_settings(), **os.environ, GUARD: "1"}
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def _measured_settings() -> dict[str, str]:
    costs, _ = find_costs()  # the second start warns of a file that is ignored
    if costs is None or costs.openmp_threads == 1:
        return {}
    return {"OMP_NUM_THREADS": str(costs.openmp_threads)}
