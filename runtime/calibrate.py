"""`python -m runtime.calibrate`: measures this machine once, so that predictions fit it.

Measures the operations of the cost table with all cores at work, fits the costs of their steps, and
finds out how many operations to run at the same time with how many OpenMP threads in each. Both are
stored (`runtime.costs`). The compiler's choices do not depend on them.

OpenMP reads its number of threads when a process starts, so each combination is measured in a
process of its own; its answer is one line of JSON.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from fhecompile.ckks.cost_table import MILLISECONDS
from fhecompile.errors import EXIT_ENVIRONMENT, FheCompileError
from fhecompile.plan.files import check_writable, make_folder, write_atomically
from fhecompile.version import __version__
from runtime.command import complain, end_command
from runtime.costs import VARIABLE, MachineCosts, costs_path, user_path
from runtime.fit import Measurement, deviations, fit_table
from runtime.library import load_openfhe
from runtime.machine import available_bytes
from runtime.measure import (
    calibration_parameters,
    measure_operations,
    measure_throughput,
    reference_rotation,
)
from runtime.processor import processor_name, usable_cores
from runtime.tuning import GUARD, SETTINGS

FULL_RING = 1 << 16
RINGS = tuple(1 << k for k in range(11, 18))
ROUGH = 0.15  # median deviation of the times from the costs fitted to them
WORTH = 1.05  # throughput that OpenMP threads must bring to be preferred to none
CIPHERTEXTS_PER_THREAD = 12  # of memory, in the basis QP: the operands of all operations
Combination = tuple[int, int]  # (operations at the same time, OpenMP threads in each)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns its exit code."""
    options = _parser().parse_args(arguments)
    return end_command(lambda: _run(options), options.verbose)


def combinations(cores: int) -> list[Combination]:
    """The combinations that are tried, without OpenMP threads first."""
    middle = 1 << round((cores.bit_length() - 1) / 2)
    tried = [(cores, 1), (1, cores)]
    if cores >= 4:
        tried.insert(1, (middle, cores // middle))
    return list(dict.fromkeys(tried))


def choose_combination(throughput: dict[Combination, float]) -> Combination:
    """The fastest; the first unless another is worth it."""
    first = next(iter(throughput))
    best = max(throughput, key=throughput.__getitem__)
    return best if throughput[best] > WORTH * throughput[first] else first


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m runtime.calibrate",
        description="Measures this machine, so that predicted times fit it. Takes about a minute; "
        "other programs should not run.",
    )
    add = parser.add_argument
    add(
        "--ring-dimension",
        type=int,
        default=FULL_RING,
        metavar="N",
        help=f"default: {FULL_RING}; smaller ones are for small machines and tests",
    )
    add(
        "--output",
        type=Path,
        metavar="FILE",
        help=f"default: where {VARIABLE} says, or the user's configuration directory",
    )
    add("-v", "--verbose", action="store_true", help="tracebacks of internal errors")
    add("--version", action="version", version=f"runtime {__version__}")
    add("--worker", help=argparse.SUPPRESS)
    return parser


def _run(options: argparse.Namespace) -> None:
    if options.worker:
        print(json.dumps(_work(json.loads(options.worker))))
    else:
        _calibrate(options)


def _calibrate(options: argparse.Namespace) -> None:
    n, cores = options.ring_dimension, usable_cores()
    if n not in RINGS:
        raise FheCompileError(
            "ring-dimension",
            f"{n} is no ring dimension to measure at",
            node="--ring-dimension",
            hint=f"give a power of two from {RINGS[0]} to {RINGS[-1]}",
        )
    target = _target(options.output)
    load_openfhe()
    _check_memory(n, cores)
    print(f"measuring {cores} cores of {processor_name()} at ring dimension {n} ...", flush=True)
    if n < FULL_RING:
        complain(
            f"warning: measured at ring dimension {n}: steps on rings of {FULL_RING} are slower "
            "than these costs say"
        )
    throughput: dict[Combination, float] = {}
    answer: dict[str, Any] = {}
    for combination in combinations(cores):
        found = _start_worker(n, combination, is_first=not throughput)
        throughput[combination] = found.pop("throughput")
        answer |= found
    measurements = msgspec.convert(answer["measurements"], list[Measurement])
    table = fit_table(measurements)
    threads, openmp_threads = choose_combination(throughput)
    costs = MachineCosts(
        table,
        threads,
        openmp_threads,
        answer["reference_rotation"],
        n,
        versions={
            "fhecompile": __version__,
            "openfhe": importlib.metadata.version("openfhe"),
            "python": platform.python_version(),
        },
    )
    write_atomically(target, costs.encode(), "--output")
    deviation = float(np.median(deviations(measurements, table)))
    for line in report_lines(costs, throughput, deviation):
        print(line)
    if deviation > ROUGH:
        complain(
            "warning: these costs are rough, the times do not fit together: other programs may "
            "have run meanwhile\n  hint: measure again when they have ended"
        )
    print(f"written: {target}")
    if costs_path() != target:
        print(f"predictions use it with {VARIABLE}={target}")


def report_lines(
    costs: MachineCosts, throughput: dict[Combination, float], deviation: float
) -> list[str]:
    """The table people read."""
    lines = [f"{'step':10}{'default':>9}{'measured':>10}   thread-milliseconds per prime, N = 2^16"]
    for step, default in MILLISECONDS.items():
        lines.append(f"{step:10}{default:9.2f}{costs.table.milliseconds[step]:10.2f}")
    for (threads, inner), rate in throughput.items():
        chosen = ", chosen" if (threads, inner) == (costs.threads, costs.openmp_threads) else ""
        lines.append(f"{threads} x {inner} OpenMP threads: {rate:.2f} mixes per second{chosen}")
    where = "" if costs.ring_dimension == FULL_RING else f" at N = {costs.ring_dimension}"
    return [
        *lines,
        f"reference rotation{where}: {costs.reference_rotation:.3f} s",
        f"an operation's time differs by {100 * deviation:.0f} % from these costs (median)",
    ]


def _target(output: Path | None) -> Path:
    target = output or costs_path() or user_path()
    if target is None:
        raise FheCompileError(
            "no-home",
            "there is no home directory to keep the costs in",
            hint=f"name a file with --output, and later with {VARIABLE}",
        )
    if output is None:
        make_folder(target.parent, "--output")
    check_writable(target, "--output")
    return target


def _check_memory(ring_dimension: int, cores: int) -> None:
    p = calibration_parameters(ring_dimension, 1)
    extended = p.ciphertext_bytes(-p.special_primes)
    needed, available = cores * CIPHERTEXTS_PER_THREAD * extended, available_bytes()
    if available is not None and needed > available:
        raise FheCompileError(
            "not-enough-memory",
            f"measuring at ring dimension {ring_dimension} on {cores} cores needs about "
            f"{needed / 2**30:.1f} GiB of memory, {available / 2**30:.1f} GiB are free",
            hint="free some memory, or give a smaller --ring-dimension",
            exit_code=EXIT_ENVIRONMENT,
        )


def _start_worker(ring_dimension: int, combination: Combination, is_first: bool) -> dict[str, Any]:
    threads, inner = combination
    task = {"ring_dimension": ring_dimension, "threads": threads, "is_first": is_first}
    environment = {**os.environ, **SETTINGS, "OMP_NUM_THREADS": str(inner), GUARD: "1"}
    command = [sys.executable, "-m", "runtime.calibrate", "--worker", json.dumps(task)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise FheCompileError(
            "calibration-failed",
            f"the process that measures {threads} x {inner} threads failed (exit code "
            f"{done.returncode})",
            hint="its own message is above; with too little memory, give a smaller "
            "--ring-dimension",
            exit_code=EXIT_ENVIRONMENT,
        )
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def _work(task: dict[str, Any]) -> dict[str, Any]:
    """What a worker measures: throughput, and the first of them the operations too."""
    n, threads = task["ring_dimension"], task["threads"]
    # Small rings, which are for tests, need less time to settle.
    seconds = 2.0 if n >= FULL_RING else 0.2
    answer: dict[str, Any] = {}
    if task["is_first"]:
        answer["measurements"] = msgspec.to_builtins(measure_operations(n, threads))
        answer["reference_rotation"] = reference_rotation(n)
    answer["throughput"] = measure_throughput(n, threads, seconds)
    return answer


if __name__ == "__main__":
    sys.exit(main())
