"""`python bench/zoo.py [NAME ...]`: the zoo's networks encrypted at 128 bits, beside ONNX Runtime.

Each runs in a process of its own, so that the memory is its own; the samples are the first of its
test samples. Prints a table, or JSON with --json. The exit code is 1 when a sample disagrees.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from typing import Any

import numpy as np

from models.zoo import compare
from models.zoo.catalogue import CATALOGUE
from runtime import InferenceSession
from runtime.machine import peak_bytes
from runtime.processor import processor_name, usable_cores
from runtime.tuning import tune_process

COLUMNS = {
    "network": "{name}",
    "agree": "{agreement:.0%}",
    "error": "{error:.1e}",
    "of": "{range:.2f}",
    "depth": "{depth}",
    "ring": "{ring}",
    "compile s": "{compile:.1f}",
    "keys s": "{keygen:.1f}",
    "encrypt s": "{encrypt:.3f}",
    "evaluate s": "{evaluate:.2f}",
    "decrypt s": "{decrypt:.3f}",
    "peak MiB": "{peak:.0f}",
}


def measure(name: str, samples: int, in_flight: int | None) -> dict[str, Any]:
    """One network: seconds per sample by phase, the largest error, the share that agrees."""
    tune_process()
    x = compare.inputs_to_test(name)[:samples]
    started = time.perf_counter()
    plan = compare.compile_network(name)
    seconds = time.perf_counter() - started
    entry, expected = CATALOGUE[name], compare.run_reference(name, x)
    with InferenceSession(plan, in_flight=in_flight) as session:
        (found,) = session.run(None, {entry.input: x})
        timings = session.timings
    found = found.reshape(expected.shape)
    return {
        "name": name,
        "agreement": compare.agreement(name, found, expected),
        "error": float(np.abs(found - expected).max()),
        "range": float(np.abs(expected).max()),
        "depth": plan.program.prediction.multiplicative_depth,
        "ring": plan.parameters.ring_dimension,
        "compile": seconds,
        "keygen": timings.keygen,
        "encrypt": timings.encrypt / len(x),
        "evaluate": timings.evaluate / len(x),
        "decrypt": timings.decrypt / len(x),
        "peak": peak_bytes() / 2**20,
    }


def main() -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    names = compare.compiled_names()
    parser.add_argument("networks", nargs="*", metavar="NAME", help=f"of {', '.join(names)}")
    parser.add_argument("--samples", type=int, default=10)
    parser.add_argument(
        "--in-flight", type=int, help="samples at once; default: what memory allows"
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--here", action="store_true", help="in this process: one network, JSON")
    options = parser.parse_args()
    if unknown := {*options.networks} - {*names}:
        parser.error(f"no such network: {', '.join(sorted(unknown))}")
    if options.here:
        (name,) = options.networks
        print(json.dumps(measure(name, options.samples, options.in_flight)))
        return 0
    found = []
    if not options.json:
        print(f"{processor_name()}, {usable_cores()} cores, {options.samples} samples each")
        print(" | ".join(COLUMNS))
    more = ["--in-flight", str(options.in_flight)] if options.in_flight else []
    for name in options.networks or names:
        command = [sys.executable, __file__, name, "--here", "--samples", str(options.samples)]
        done = subprocess.run([*command, *more], stdout=subprocess.PIPE, check=True)
        found.append(json.loads(done.stdout))
        if not options.json:
            print(" | ".join(text.format(**found[-1]) for text in COLUMNS.values()), flush=True)
    if options.json:
        print(json.dumps(found, indent=2))
    return 0 if all(line["agreement"] == 1 for line in found) else 1


if __name__ == "__main__":
    sys.exit(main())
