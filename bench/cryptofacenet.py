"""CryptoFaceNet at full size: evaluate time, the reference rotation, memory and where time goes.

    python bench/cryptofacenet.py MODEL.onnx --samples samples.npz [--precision-bits 8] [--runs 3]

`samples.npz` holds `images`; one image is encrypted and evaluated `--runs` times with the same
keys, and the best run is reported. The *reference rotation* is what a time is divided by to compare
machines: one `EvalRotate` at N = 2^16 with `SetMultiplicativeDepth(27)`, 40-bit scale, 56-bit first
modulus, 3 digits, at level 2, on one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from fhecompile.compile import compile_model
from fhecompile.frontend.reference import run_reference
from fhecompile.ir.evaluate import evaluate
from fhecompile.options import CompileOptions
from runtime import InferenceSession
from runtime.machine import peak_bytes, usable_cores


def reference_rotation(repeats: int = 5) -> float:
    """Seconds of the reference rotation (best of `repeats`)."""
    import openfhe as o

    p = o.CCParamsCKKSRNS()
    p.SetSecretKeyDist(o.SecretKeyDist.UNIFORM_TERNARY)
    p.SetSecurityLevel(o.SecurityLevel.HEStd_128_classic)
    p.SetRingDim(1 << 16)
    p.SetMultiplicativeDepth(27)
    p.SetScalingModSize(40)
    p.SetFirstModSize(56)
    p.SetNumLargeDigits(3)
    context = o.GenCryptoContext(p)
    for feature in (o.PKE, o.KEYSWITCH, o.LEVELEDSHE):
        context.Enable(feature)
    keys = context.KeyGen()
    context.EvalRotateKeyGen(keys.secretKey, [1])
    plaintext = context.MakeCKKSPackedPlaintext(np.linspace(-1, 1, 1 << 15), 1, 2)
    ciphertext = context.Encrypt(keys.publicKey, plaintext)
    best = float("inf")
    for _ in range(repeats):
        started = time.perf_counter()
        context.EvalRotate(ciphertext, 1)
        best = min(best, time.perf_counter() - started)
    context.ClearEvalAutomorphismKeys()
    return best


def main() -> int:
    """Runs the benchmark and prints one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--samples", type=Path, required=True)
    parser.add_argument("--precision-bits", type=float, default=8.0)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--passes", default="")
    arguments = parser.parse_args()

    images = np.load(arguments.samples)["images"]
    started = time.perf_counter()
    compilation = compile_model(
        arguments.model,
        images,
        CompileOptions(precision_bits=arguments.precision_bits, passes=arguments.passes),
    )
    report: dict[str, Any] = {"compile_seconds": time.perf_counter() - started}
    rotation = reference_rotation()
    plan = compilation.plan
    image = images[:1]
    name = plan.program.inputs[0].name
    runs = []
    with InferenceSession(plan, "encrypt") as session:
        keygen = session.timings.keygen
        for _ in range(arguments.runs):
            (output,) = session.run(None, {name: image})
            execution = session.timings.executions[-1]
            runs.append((session.timings.evaluate, execution.seconds_by_operation()))
            print(f"evaluate {runs[-1][0]:.1f} s", file=sys.stderr)
    evaluate_seconds, by_operation = min(runs, key=lambda run: run[0])
    exact = evaluate_imported(arguments.model, name, image)
    onnx = next(iter(run_reference(arguments.model, {name: image}).values()))
    busy = sum(by_operation.values())
    report |= {
        "machine": f"{platform.processor() or platform.machine()}, {usable_cores()} cores",
        "keygen_seconds": keygen,
        "evaluate_seconds": evaluate_seconds,
        "evaluate_all_runs": [seconds for seconds, _ in runs],
        "reference_rotation_seconds": rotation,
        "reference_rotations": evaluate_seconds / rotation,
        "peak_bytes": peak_bytes(),
        "predicted_peak_bytes": plan.program.prediction.peak_bytes,
        "share_of_thread_time": {
            op: seconds / (evaluate_seconds * usable_cores())
            for op, seconds in sorted(by_operation.items(), key=lambda item: -item[1])
            if seconds / busy > 0.002
        },
        "idle": 1 - busy / (evaluate_seconds * usable_cores()),
        "max_error_float64": float(np.abs(output - exact).max()),
        "max_error_onnxruntime": float(np.abs(output - onnx).max()),
        "cosine_onnxruntime": float(
            np.sum(output * onnx) / np.linalg.norm(output) / np.linalg.norm(onnx)
        ),
    }
    print(json.dumps(report, indent=2))
    return 0


def evaluate_imported(model: Path, name: str, image: np.ndarray) -> np.ndarray:
    """The model's output in float64, by the evaluator of the imported graph."""
    from fhecompile.frontend import import_model

    graph = import_model(model).graph
    values = evaluate(graph, {name: np.asarray(image, np.float64)[:, None]})
    return next(iter(values.values()))[:, 0]


if __name__ == "__main__":
    sys.exit(main())
