"""`python bench/pair.py ONE PAIR --samples SAMPLES`: what a pair costs, in images.

ONE is a network compiled with `--match gallery`, PAIR the same with `--match cosine`. Both are
evaluated in turn, so that a machine whose speed changes is as fast for one as for the other, and
the ratio is that of the best times; `ratios` are those of neighbours.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from fhecompile.plan import Plan
from runtime import InferenceSession
from runtime.machine import peak_bytes
from runtime.processor import processor_name, usable_cores
from runtime.tuning import tune_process


def main() -> None:
    """Measures and prints JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("plans", type=Path, nargs=2)
    parser.add_argument("--samples", type=Path, required=True, help=".npz file with `images`")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    tune_process()
    images = np.load(options.samples)["images"]
    sessions = [InferenceSession(Plan.load(path)) for path in options.plans]
    seconds: list[list[float]] = [[], []]
    spent: list[dict[str, float]] = [{}, {}]
    for _ in range(options.runs):
        for k, session in enumerate(sessions):
            (info,) = session.plan.program.inputs
            count = int(np.prod(info.shape)) // images[0].size
            session.run(None, {info.name: images[:count].reshape(info.shape)})
            (execution,) = session.timings.executions
            seconds[k].append(execution.seconds)
            if execution.seconds == min(seconds[k]):
                whole = execution.seconds * execution.threads
                spent[k] = {kind: part * whole for kind, part in execution.shares().items()}
    one, pair = seconds
    report = {
        "machine": f"{processor_name()}, {usable_cores()} cores",
        "one_seconds": one,
        "pair_seconds": pair,
        "ratios": [round(b / a, 3) for a, b in zip(one, pair, strict=True)],
        "ratio": round(min(pair) / min(one), 3),
        "thread_seconds": spent,
        "peak_bytes": peak_bytes(),
    }
    print(json.dumps(report, indent=2))
    for session in sessions:
        session.close()


if __name__ == "__main__":
    main()
