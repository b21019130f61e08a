"""`python bench/small.py [NAME ...]`: small leveled networks of the zoo, encrypted at 128 bits.

Each network is compiled and run in a process of its own, whose peak memory is measured, with its
encoded constants cached. Seconds are those of evaluating, of the first image (which encodes the
constants) and the best and the median of `--runs` further ones; errors are against ONNX Runtime.

| network | what it is compared with, on the same machine |
|---|---|
| mlp_square, lola, lenet_square | Orion, constants encoded before |
| digits_relu_mlp | Concrete ML |
| tenseal_cnn | TenSEAL |

Limits are what the project promises of 2 cores: GB, and seconds from the second image on; the first
image may take three times as many. Compiling may take 10 s, the error 1e-3, and every class must be
ONNX Runtime's; relu is approximated, as the budget of its network says, so that there only classes
count. Exit code 1 when a limit is exceeded.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

import models
from fhecompile.options import CompileOptions
from fhecompile.report.budgets import read_budgets

LIMITS: dict[str, tuple[float, float]] = {  # seconds per image, GB
    "mlp_square": (0.4, 1.0),
    "lola": (0.25, 1.0),
    "lenet_square": (3.0, 4.0),
    "digits_relu_mlp": (0.25, 1.0),
    "tenseal_cnn": (0.3, 1.0),
}
FITTED = {"digits_relu_mlp"}
COMPILE_SECONDS = 10.0
FIRST_IMAGES = 3.0
LARGEST_ERROR = 1e-3
SQUARE = CompileOptions(precision_bits=10.0)  # of outputs up to 1
BUDGETS = Path(models.__file__).parent / "budgets.toml"
CACHE_BYTES = 3 << 30


def main() -> int:
    """Runs every network in a process of its own and prints one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", metavar="NAME")
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.networks[0], options.runs)))
        return 0
    if unknown := [name for name in options.networks if name not in LIMITS]:
        parser.error(f"there is no {unknown[0]}, only {', '.join(LIMITS)}")
    reports, kept = {}, True
    for name in options.networks or LIMITS:
        command = [sys.executable, __file__, name, "--one", "--runs", str(options.runs)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        report = json.loads(done.stdout.splitlines()[-1])
        seconds, gigabytes = LIMITS[name]
        report["exceeded"] = [
            key
            for key, limit in (
                ("compile_seconds", COMPILE_SECONDS),
                ("first_seconds", FIRST_IMAGES * seconds),
                ("median_seconds", seconds),
                ("largest_error", math.inf if name in FITTED else LARGEST_ERROR),
                ("other_classes", 0),
                ("peak_gb", gigabytes),
            )
            if report[key] > limit
        ]
        kept = kept and not report["exceeded"]
        print(f"{name}: {report['median_seconds']:.3f} s", file=sys.stderr)
        reports[name] = report
    print(json.dumps(reports, indent=2))
    return 0 if kept else 1


def measure(name: str, runs: int) -> dict[str, Any]:
    """Compiles and runs one network; times in seconds."""
    from fhecompile.compile import compile_model
    from fhecompile.frontend.reference import run_reference
    from models.zoo.__main__ import main as zoo
    from runtime import InferenceSession
    from runtime.machine import peak_bytes
    from runtime.measure import reference_rotation
    from runtime.processor import processor_name, usable_cores
    from runtime.tuning import tune_process

    tune_process()
    with TemporaryDirectory() as folder:
        model, data = Path(folder) / "model.onnx", Path(folder) / "samples.npz"
        zoo(["export", name, "--out", str(model)])
        zoo(["data", name, "--out", str(data)])
        with np.load(data) as arrays:
            calibration, images = arrays["image"], arrays["test"][: runs + 1]
        started = time.perf_counter()
        budgets = read_budgets(BUDGETS)
        options = budgets[name].options() if name in budgets else SQUARE
        plan = compile_model(model, calibration, options).plan
        compiled = time.perf_counter() - started
        (tensor,) = plan.program.inputs
        expected = [
            next(iter(run_reference(model, {tensor.name: image.reshape(tensor.shape)}).values()))
            for image in images
        ]
    seconds, whole, errors, others = [], [], [], 0
    with InferenceSession(plan, "encrypt", cache_constants=CACHE_BYTES) as session:
        for image, wanted in zip(images, expected, strict=True):
            started = time.perf_counter()
            (output,) = session.run(None, {tensor.name: image.reshape(tensor.shape)})
            whole.append(time.perf_counter() - started)
            seconds.append(session.timings.evaluate)
            errors.append(float(np.abs(output - wanted).max()))
            others += int(np.argmax(output) != np.argmax(wanted))
        keygen = session.timings.keygen
        peak = peak_bytes()
    p = plan.parameters
    return {
        "machine": f"{processor_name()}, {usable_cores()} cores",
        "compile_seconds": compiled,
        "keygen_seconds": keygen,
        "first_seconds": seconds[0],
        "median_seconds": statistics.median(seconds[1:]),
        "best_seconds": min(seconds[1:]),
        "median_with_client_seconds": statistics.median(whole[1:]),
        "reference_rotation_seconds": reference_rotation(),
        "largest_error": max(errors),
        "other_classes": others,
        "peak_gb": peak / 1e9,
        "parameters": f"2^{p.ring_dimension.bit_length() - 1}, {p.levels} x {p.prime_bits} bits",
    }


if __name__ == "__main__":
    sys.exit(main())
