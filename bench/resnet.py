"""Refreshed ResNets: compile and evaluate time, memory, errors, and classes that stay the same.

    python bench/resnet.py [MODEL.onnx] [--samples data.npz] [--images 3] [--simulated 500]
                           [--calibrated 64] [--max-keys 16] [--activation-error E]

Without a model it is the shipped ResNet-20, without samples images are drawn anew. Of those that it
is not calibrated on, so many are run encrypted, one after the other with one set of keys, and so
many simulated; with none of either the model is only compiled. One JSON object is printed. Limits
that are held by issue are in `docs/performance.md`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from fhecompile.compile import compile_model
from fhecompile.frontend.reference import run_reference
from fhecompile.options import CompileOptions
from fhecompile.plan.summary import summarise
from models.images import synthetic
from models.images.dataset import prepare
from runtime import InferenceSession
from runtime.machine import peak_bytes
from runtime.measure import reference_rotation
from runtime.processor import processor_name, usable_cores
from runtime.tuning import tune_process

SHIPPED = Path(synthetic.__file__).parent / "resnet20_synthetic.onnx"
SEED = 7  # of images; training took 0, its test 1


def main() -> int:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, nargs="?", default=SHIPPED)
    parser.add_argument("--samples", type=Path)
    parser.add_argument("--images", type=int, default=3)
    parser.add_argument("--simulated", type=int, default=500)
    parser.add_argument("--calibrated", type=int, default=64)
    parser.add_argument("--max-keys", type=int, default=16)
    parser.add_argument("--activation-error", type=float)
    arguments = parser.parse_args()
    count = arguments.calibrated + max(arguments.images, arguments.simulated)
    images = np.load(arguments.samples)["images"] if arguments.samples else drawn(count)
    calibration, tested = np.split(images[:count], [arguments.calibrated])

    started = time.perf_counter()
    options = CompileOptions(
        max_keys=arguments.max_keys, activation_error=arguments.activation_error
    )
    plan = compile_model(arguments.model, calibration, options).plan
    compiled = time.perf_counter()
    summary = summarise(plan, threads=usable_cores())
    report: dict[str, Any] = {
        "machine": f"{processor_name()}, {usable_cores()} cores",
        "compile_seconds": compiled - started,
        "refreshes": summary.bootstraps,
        "predicted_seconds": summary.seconds,
        "predicted_peak_bytes": plan.program.prediction.peak_bytes,
    }
    name = plan.program.inputs[0].name
    exact = [next(iter(run_reference(arguments.model, {name: x[None]}).values())) for x in tested]
    if arguments.simulated:
        with InferenceSession(plan, "simulate", ignore_range=True) as session:
            several = np.split(tested[: arguments.simulated], range(4, arguments.simulated, 4))
            report["simulated"] = compared(
                [session.run(None, {name: x})[0] for x in several], exact
            )
    if arguments.images:
        rotation = reference_rotation()
        with InferenceSession(plan, "encrypt") as session:
            outputs, seconds = [], []
            for x in tested[: arguments.images]:
                outputs.append(session.run(None, {name: x})[0])
                seconds.append(session.timings.evaluate)
                print(f"evaluate {seconds[-1]:.0f} s", file=sys.stderr)
            report |= {
                "keygen_seconds": session.timings.keygen,
                "evaluate_seconds": seconds,
                "reference_rotation_seconds": rotation,
                "reference_rotations": min(seconds) / rotation,
                "encrypted": compared(outputs, exact),
                "peak_bytes": peak_bytes(),
                "thread_seconds": session.timings.seconds_by_operation(),
            }
    print(json.dumps(report, indent=2))
    return 0


def drawn(count: int) -> np.ndarray:
    """Images of the synthetic classes, of a seed that nothing was trained on."""
    return prepare(synthetic.draw_images(SEED, count).images)


def compared(outputs: list[np.ndarray], exact: list[np.ndarray]) -> dict[str, float]:
    """Largest error relative to the range of the exact outputs, and equal classes."""
    found = np.concatenate([x.reshape(-1, exact[0].shape[1]) for x in outputs])
    wanted = np.concatenate(exact[: len(found)])
    errors = np.abs(found - wanted).max(axis=1)
    return {
        "images": len(found),
        "largest_error_of_range": float(errors.max() / np.ptp(wanted)),
        "same_class": float(np.mean(found.argmax(axis=1) == wanted.argmax(axis=1))),
    }


if __name__ == "__main__":
    tune_process()
    sys.exit(main())
