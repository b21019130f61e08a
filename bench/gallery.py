"""`python bench/gallery.py PLAN`: enrolling and 1:N matching at full size, timed.

PLAN is a network compiled with `--match gallery`. Templates are random unit vectors, encrypted as
the network would give them (one is placed by the server, the others are encrypted at their place,
which takes the client less long and gives the same files). Times are of what a server does for one
request with its keys loaded: placing one template, and comparing one with all: reading and checking
their files, adding them up, and the comparison itself.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np

from fhecompile.plan import Plan
from runtime.client import decrypt_outputs
from runtime.costs import evaluation_threads, find_costs
from runtime.gallery.programs import match_program, output_type, place_program, places_of
from runtime.gallery.store import Gallery
from runtime.gallery.templates import Entry
from runtime.key_files import load_evaluation_keys, load_secret, make_keys
from runtime.machine import MemoryShares, peak_bytes
from runtime.processor import processor_name, usable_cores
from runtime.server import Server
from runtime.tuning import tune_process


def main() -> None:
    """Measures and prints JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("plan", type=Path)
    parser.add_argument("--templates", type=int, default=1024)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    tune_process()
    plan = Plan.load(options.plan)
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(plan, Path(folder), options.templates, options.runs), indent=2))


def measure(plan: Plan, folder: Path, count: int, runs: int) -> dict[str, object]:
    """Seconds of each step, the best of `runs`, and the largest error of a score."""
    threads = evaluation_threads(find_costs()[0])
    size = int(np.prod(plan.program.outputs[0].shape))
    random = np.random.default_rng(0)
    vectors = random.normal(size=(count, size))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    layout = plan.layouts[plan.program.outputs[0].layout]
    level, scale = output_type(plan)
    placing = place_program(plan, places_of(plan) - 1)  # the one with the most rotations
    make_keys([placing, match_program(plan, 1)], folder / "keys")
    secret = load_secret(plan, folder / "keys/secret.key")
    context = load_evaluation_keys(match_program(plan, 1), folder / "keys/evaluation.keys")
    gallery = Gallery(folder / "gallery", plan, context.key_tag)
    memory = MemoryShares(0, 0, 1)

    def encrypt(vector: np.ndarray, at: int, exponent: float, place: int = 0) -> object:
        packed = layout.pack(vector.reshape(layout.shape))[0]
        return secret.encrypt(np.roll(packed, place), exponent, at)

    with gallery.changing():
        for number, vector in enumerate(vectors):
            stored = encrypt(vector, level, scale, number % gallery.files.places)
            name = f"template-{number}"
            gallery.add(Entry(name, number, gallery.path(name)), stored)
    file_bytes = gallery.path("template-0").stat().st_size
    probe = encrypt(vectors[1], level, scale)
    seconds: dict[str, list[float]] = {"place": [], "read": [], "match": []}
    for _ in range(runs):
        started = time.perf_counter()
        Server(placing, context, threads, memory).evaluate({(0, 0): probe})
        seconds["place"].append(time.perf_counter() - started)
        started = time.perf_counter()
        sums = gallery.files.sums(context, gallery.entries())
        seconds["read"].append(time.perf_counter() - started)
        started = time.perf_counter()
        program = match_program(plan, len(sums))
        inputs = {(0, 0): probe, **{(1, group): total for group, total in sums.items()}}
        outputs, _ = Server(program, context, threads, memory).evaluate(inputs)
        seconds["match"].append(time.perf_counter() - started)
    found = decrypt_outputs(program, secret, outputs)[0].reshape(-1)[:count]
    error = float(np.abs(found - vectors @ vectors[1]).max())
    context.release()
    return {
        "machine": f"{processor_name()}, {usable_cores()} cores",
        "templates": count,
        "ciphertexts": len(sums),
        "bytes_per_template": file_bytes,
        "seconds": {name: min(values) for name, values in seconds.items()},
        "identify_seconds": min(map(sum, zip(seconds["read"], seconds["match"], strict=True))),
        "max_error": error,
        "peak_bytes": peak_bytes(),
    }


if __name__ == "__main__":
    main()
