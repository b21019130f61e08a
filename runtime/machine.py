r"""What memory the machine has, whether a plan fits, and how a run uses what is left.

An encrypted run of one image takes the plan's predicted peak P, of which K bytes are evaluation
keys. Of what is free beyond P and the cache of constants, at most half, and `AHEAD_BYTES`, goes to
constants encoded ahead; the rest to more images, each of which takes no more than P - K:

    free      = available - P - cache            (available - (P - K) - cache once keys are made)
    ahead     = min(AHEAD_BYTES, free / 2)
    in flight = 1 + (free - ahead) / (P - K)     at most MOST_IN_FLIGHT unless a user asks for more

Where P is more than there is, or than a user allows, M, keys stay on disk and at most B bytes of
them are in memory, beside the bytes of `READ_KEYS` that are read (`runtime.key_stages`):

    rest      = M - (P - K) - cache - READ_KEYS u                u bytes of a key
    in flight = 1, or as many as asked for, which leave of rest the least that keys can be
    ahead     = min(AHEAD_BYTES, (rest - least) / SHARE_AHEAD)   rest without those further images
    B         = rest - ahead

and making keys takes RUNTIME_BYTES + MADE_KEYS u before, or, where there are refreshes,
RUNTIME_BYTES + (log2 N + REFRESH_KEYS) u: OpenFHE makes the keys of a refresh, if only of few
slots, at once (`runtime.keys.generate_refresh_keys`). Keys come first: one that is not in memory
is read again for every image, where constants are encoded once in any case.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from fhecompile.ckks.parameters import AHEAD_BYTES, RUNTIME_BYTES
from fhecompile.errors import EXIT_ENVIRONMENT, FheCompileError
from fhecompile.plan import Plan
from runtime.key_stages import READ_KEYS, KeyNeeds
from runtime.plaintexts import list_plaintexts

SHARE_AHEAD = 4
MADE_KEYS = 8  # while keys are made into a file: one and the next one, and copies as bytes
REFRESH_KEYS = 16  # beside one for every bit of the ring: those read from their file, and copies
MOST_IN_FLIGHT = 16  # constants are then encoded once for 16 images: nothing is left to gain


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


def parse_size(text: str) -> int:
    """Bytes of a size like 800M or 8G (powers of 1024); ValueError when it is none."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if match is None:
        raise ValueError(f"{text} is no size")
    return int(float(match[1]) * 1024 ** " KMGT".index(match[2].upper() or " "))


@dataclass(frozen=True)
class MemoryShares:
    """Bytes for cached constants and for those encoded ahead, and images evaluated at once.

    `keys` are bytes of evaluation keys, the others being on disk; None: all are in memory.
    """

    cache: int
    ahead: int
    in_flight: int
    keys: int | None = None


def share_memory(
    plan: Plan,
    cache_constants: int | None = None,
    in_flight: int | None = None,
    *,
    keys_made: bool = False,
    available: int | None = None,
) -> MemoryShares:
    """How an encrypted run uses memory; the formulas are in the module docstring.

    Args:
        plan: the plan.
        cache_constants: bytes of constants to keep at most; what the plan does not have is free.
        in_flight: images to evaluate at once at most.
        keys_made: whether this process holds the evaluation keys already.
        available: free memory; default: what the machine says.
    """
    peak = plan.program.prediction.peak_bytes
    per_image = max(1, peak - _key_bytes(plan))
    needed = per_image if keys_made else peak
    cache = min(cache_constants or 0, sum(info.bytes for info in list_plaintexts(plan)))
    available = available_bytes() if available is None else available
    if available is None:
        return MemoryShares(cache, AHEAD_BYTES, in_flight or 1)
    if cache and needed + cache > available:
        raise FheCompileError(
            "not-enough-memory",
            f"an encrypted run needs about {needed / 2**30:.1f} GiB of memory and "
            f"{cache / 2**30:.1f} GiB for cached constants, {available / 2**30:.1f} GiB are free",
            hint="cache fewer constants, free some memory, or use a bigger machine",
            exit_code=EXIT_ENVIRONMENT,
        )
    free = max(0, available - needed - cache)
    ahead = min(AHEAD_BYTES, free // 2)
    fitting = 1 + (free - ahead) // per_image
    return MemoryShares(cache, ahead, min(fitting, max(1, in_flight or MOST_IN_FLIGHT)))


def _key_bytes(plan: Plan) -> int:
    return plan.program.keys.count * plan.parameters.key_bytes


def _made_keys(plan: Plan) -> int:
    """Keys whose bytes are in memory while keys are made into a file, at most."""
    if not plan.program.keys.refreshes:
        return MADE_KEYS
    return plan.parameters.ring_dimension.bit_length() - 1 + REFRESH_KEYS


def limit_memory(
    plan: Plan,
    cache_constants: int | None = None,
    in_flight: int | None = None,
    *,
    max_memory: int | None = None,
    makes_keys: bool = False,
    available: int | None = None,
) -> MemoryShares:
    """How an encrypted run uses memory within a limit, with keys on disk where all are too much.

    Args:
        plan, cache_constants, in_flight, available: see `share_memory`.
        max_memory: most bytes that the process may hold.
        makes_keys: whether it makes the keys as well.

    Raises:
        FheCompileError: not even the keys of one operation fit; the text says what would do.
    """
    available = available_bytes() if available is None else available
    limits = [limit for limit in (available, max_memory) if limit is not None]
    if not limits or plan.program.prediction.peak_bytes <= min(limits):
        return share_memory(plan, cache_constants, in_flight, available=min(limits, default=None))
    limit, needs = min(limits), KeyNeeds.of(plan)
    cache = min(cache_constants or 0, sum(info.bytes for info in list_plaintexts(plan)))
    per_image = max(1, plan.program.prediction.peak_bytes - _key_bytes(plan))
    key_bytes = plan.parameters.key_bytes
    rest = limit - cache - per_image - READ_KEYS * key_bytes
    making = RUNTIME_BYTES + _made_keys(plan) * key_bytes if makes_keys else 0
    least = max(making, limit - rest + needs.least)
    if limit < least:
        peak = plan.program.prediction.peak_bytes + cache  # less where few keys can be spared
        raise _too_little(min(peak, least), limit, cache, limit == max_memory)
    images = min(max(1, in_flight or 1), 1 + (rest - needs.least) // per_image)
    rest -= (images - 1) * per_image
    ahead = min(AHEAD_BYTES, (rest - needs.least) // SHARE_AHEAD)
    return MemoryShares(cache, ahead, images, min(rest - ahead, needs.all))


def predict_peak(plan: Plan, memory: MemoryShares) -> int:
    """Bytes that a run holds at most, if there is time to encode constants ahead."""
    peak, all_keys = plan.program.prediction.peak_bytes, _key_bytes(plan)
    keys = all_keys
    if memory.keys is not None:
        keys = memory.keys + READ_KEYS * plan.parameters.key_bytes
    ahead = min(memory.ahead, sum(info.bytes for info in list_plaintexts(plan)) - memory.cache)
    return memory.in_flight * (peak - all_keys) + keys + memory.cache + ahead


def _too_little(least: int, limit: int, cache: int, asked: bool) -> FheCompileError:
    least_mib = -(-least >> 20)
    hint = "free some memory, use a bigger machine, or run with --mode simulate"
    if asked:
        hint = f"allow {least_mib}M, or compile with fewer keys (--max-keys)"
    cached = f" with {cache >> 20} MiB of cached constants" if cache else ""
    return FheCompileError(
        "not-enough-memory",
        f"an encrypted run{cached} needs at least {least_mib} MiB of memory, even with evaluation "
        f"keys on disk; {limit >> 20} MiB are {'allowed' if asked else 'free'}",
        hint=hint,
        exit_code=EXIT_ENVIRONMENT,
    )


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
