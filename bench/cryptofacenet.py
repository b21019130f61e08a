"""CryptoFaceNet at full size: evaluate time, the reference rotation, memory and where time goes.

    python bench/cryptofacenet.py MODEL.onnx --samples samples.npz [--precision-bits 10] [--runs 3]
                                  [--images K] [--batch B] [--cache-constants SIZE]
                                  [--level-budget L] [--max-keys K]

`samples.npz` holds `images`; one image is encrypted and evaluated `--runs` times with the same
keys, and the best run is reported, then K images at once, if asked B of them in each set of
ciphertexts. With a cache the time of a second image
is measured, with keys of its own. `share` is where the thread-time went.

The *reference rotation* (`runtime.measure`) is what a time is divided by to compare machines.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fhecompile.compile import compile_model
from fhecompile.frontend.reference import run_reference
from fhecompile.ir.evaluate import evaluate
from fhecompile.options import CompileOptions
from fhecompile.plan.summary import summarise
from runtime import InferenceSession
from runtime.machine import parse_size, peak_bytes
from runtime.measure import reference_rotation
from runtime.processor import processor_name, usable_cores
from runtime.tuning import tune_process


def main() -> int:
    """Runs the benchmark and prints one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--samples", type=Path, required=True)
    parser.add_argument("--precision-bits", type=float, default=10.0)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--passes", default="")
    parser.add_argument("--images", type=int, default=1, metavar="K")
    parser.add_argument(
        "--batch", type=int, default=1, metavar="B", help="samples in a set of ciphertexts for K"
    )
    parser.add_argument("--cache-constants", type=parse_size, default=0, metavar="SIZE")
    parser.add_argument("--level-budget", type=int, default=CompileOptions.level_budget)
    parser.add_argument("--max-keys", type=int, default=CompileOptions.max_keys)
    arguments = parser.parse_args()

    images = np.load(arguments.samples)["images"]
    started = time.perf_counter()
    options = CompileOptions(
        precision_bits=arguments.precision_bits,
        passes=arguments.passes,
        level_budget=arguments.level_budget,
        max_keys=arguments.max_keys,
    )
    plan = compile_model(arguments.model, images, options).plan
    compiled = time.perf_counter()
    report: dict[str, Any] = {
        "machine": f"{processor_name()}, {usable_cores()} cores",
        "compile_seconds": compiled - started,
        "refreshes": summarise(plan, threads=usable_cores()).bootstraps,
    }
    rotation = reference_rotation()
    name = plan.program.inputs[0].name
    image = images[:1]
    with InferenceSession(plan, "encrypt") as session:
        report["keygen_seconds"] = session.timings.keygen
        runs = []
        for _ in range(arguments.runs):
            (output,) = session.run(None, {name: image})
            runs.append(measured(session, "one image"))
        best = min(runs, key=lambda run: run["seconds_per_image"])
        report |= {
            "evaluate_seconds": best["seconds_per_image"],
            "evaluate_all_runs": [run["seconds_per_image"] for run in runs],
            "reference_rotation_seconds": rotation,
            "reference_rotations": best["seconds_per_image"] / rotation,
            "peak_bytes": runs[-1]["peak_bytes"],
            "predicted_peak_bytes": plan.program.prediction.peak_bytes,
            "share": best["share"],
            "thread_seconds": best["thread_seconds"],
        }
        if arguments.images > 1 and arguments.batch == 1:
            report["batch"] = several(session, name, images, arguments.images)
    if arguments.images > 1 and arguments.batch > 1:
        options = replace(options, batch=arguments.batch)
        batched = compile_model(arguments.model, images, options).plan
        with InferenceSession(batched, "encrypt") as session:
            report["batch"] = several(session, name, images, arguments.images)
            report["batch"]["reference_rotation_seconds"] = reference_rotation()
    if arguments.cache_constants:
        with InferenceSession(
            plan, "encrypt", cache_constants=arguments.cache_constants
        ) as session:
            session.run(None, {name: image})
            first = measured(session, "first image")
            session.run(None, {name: image})
            second = measured(session, "second image")
        report["cached"] = {"first": first, "second": second}
    exact = evaluate_imported(arguments.model, name, image)
    onnx = next(iter(run_reference(arguments.model, {name: image}).values()))
    report |= {
        "max_error_float64": float(np.abs(output - exact).max()),
        "max_error_onnxruntime": float(np.abs(output - onnx).max()),
        "output_range": float(np.ptp(onnx)),
        "cosine_onnxruntime": float(
            np.sum(output * onnx) / np.linalg.norm(output) / np.linalg.norm(onnx)
        ),
    }
    print(json.dumps(report, indent=2))
    return 0


def several(session: InferenceSession, name: str, images: np.ndarray, count: int) -> dict[str, Any]:
    """Seconds per image of `count` images at once."""
    session.run(None, {name: np.resize(images, (count, *images.shape[1:]))})
    return measured(session, f"{count} images")


def measured(session: InferenceSession, label: str) -> dict[str, Any]:
    """Seconds per image, and where the thread-time went, of a session's last call."""
    executions = session.timings.executions
    count = session.plan.program.batch * sum(execution.images for execution in executions)
    whole = sum(execution.seconds for execution in executions)
    share: dict[str, float] = {}
    for execution in executions:
        for kind, part in execution.shares().items():
            share[kind] = share.get(kind, 0.0) + part * execution.seconds / whole
    operations = session.timings.seconds_by_operation().items()
    seconds = session.timings.evaluate / count
    print(f"{label}: evaluate {seconds:.1f} s per image", file=sys.stderr)
    return {
        "seconds_per_image": seconds,
        "in_flight": [execution.images for execution in executions],
        "share": share,
        "thread_seconds": dict(sorted(operations, key=lambda item: -item[1])),
        "peak_bytes": peak_bytes(),  # of the process so far
    }


def evaluate_imported(model: Path, name: str, image: np.ndarray) -> np.ndarray:
    """The model's output in float64, by the evaluator of the imported graph."""
    from fhecompile.frontend import import_model

    graph = import_model(model).graph
    values = evaluate(graph, {name: np.asarray(image, np.float64)[:, None]})
    return next(iter(values.values()))[:, 0]


if __name__ == "__main__":
    tune_process()
    sys.exit(main())
