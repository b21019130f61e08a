"""First success: compile the digits network, run it encrypted, compare with ONNX Runtime.

    python -m models.demo [--images 3]

Compiles the shipped `digits_cnn.onnx` at 128-bit security and classifies test images under
encryption; where OpenFHE is missing it says so and simulates. Exit code 1 when a class differs from
ONNX Runtime's.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fhecompile import FheCompileError
from fhecompile.compile import compile_model
from fhecompile.options import CompileOptions
from fhecompile.plan import Plan
from fhecompile.plan.summary import summarise
from fhecompile.report.tables import cost_rows
from runtime import InferenceSession
from runtime.costs import machine_table
from runtime.machine import peak_bytes
from runtime.processor import usable_cores
from runtime.session import Mode
from runtime.tuning import tune_process

FOLDER = Path(__file__).parent
MODEL = FOLDER / "digits_cnn.onnx"
Images = NDArray[np.float32]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the demonstration; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m models.demo", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--images", type=int, default=3, metavar="N", help="default: 3")
    parser.add_argument("--simulate", action="store_true", help="do not encrypt")
    options = parser.parse_args(arguments)
    with np.load(FOLDER / "digits_test.npz") as data:
        images, labels = data["image"], data["label"]
    if not 1 <= options.images <= len(images):
        parser.error(f"--images is to be 1 to {len(images)}")
    if arguments is None:
        tune_process()
    images, labels = images[: options.images], labels[: options.images]
    try:
        seconds, plan = _compile()
        timings, found = _run(plan, images, "simulate" if options.simulate else "encrypt")
    except FheCompileError as error:
        print(f"error: {error.render()}", file=sys.stderr)
        return error.exit_code
    expected = _reference(images)
    for label, x, y in zip(labels, found, expected, strict=True):
        print(
            f"label {label}: class {np.argmax(x)}, ONNX Runtime's class {np.argmax(y)}, "
            f"max error {np.abs(x - y).max():.1e}"
        )
    for phase, value in {"compile": seconds, **timings}.items():
        each = f", {value / len(images):.2f} s per image" if phase == "evaluate" else ""
        print(f"{phase:10} {value:6.2f} s{each}")
    print(f"peak memory {peak_bytes() / 2**20:.0f} MiB")
    same = bool((found.argmax(axis=1) == expected.argmax(axis=1)).all())
    print("every class is ONNX Runtime's" if same else "a class DIFFERS from ONNX Runtime's")
    return 0 if same else 1


def _compile() -> tuple[float, Plan]:
    started = time.perf_counter()
    plan = compile_model(MODEL, FOLDER / "digits_calibration.npz", CompileOptions()).plan
    seconds = time.perf_counter() - started
    threads = usable_cores()
    table = machine_table(lambda _: None)  # the session warns of a file that is ignored
    summary = summarise(plan, threads=threads, table=table)
    print(f"{MODEL.name}, what running it will cost:")
    for label, text in cost_rows(plan, summary, threads):
        print(f"  {label:20}{text}")
    return seconds, plan


def _run(plan: Plan, images: Images, mode: Mode) -> tuple[dict[str, float], NDArray[Any]]:
    """Seconds by phase, and the logits (images, 10)."""
    try:
        session = InferenceSession(plan, mode)
    except FheCompileError as error:
        if error.code != "openfhe-missing":
            raise
        print(f"no encryption: {error.render()}\nsimulating instead")
        session = InferenceSession(plan, "simulate")
    with session:
        number = f"{len(images)} image{'s' * (len(images) != 1)}"
        print(f"{session.mode}: {number} on {session.threads} threads ...", flush=True)
        (logits,) = session.run(None, {plan.program.inputs[0].name: images})
    t = session.timings
    phases = {
        "keygen": t.keygen,
        "encrypt": t.encrypt,
        "evaluate": t.evaluate,
        "decrypt": t.decrypt,
    }
    return phases, logits


def _reference(images: Images) -> NDArray[Any]:
    import onnxruntime

    model = onnxruntime.InferenceSession(str(MODEL), providers=["CPUExecutionProvider"])
    name = model.get_inputs()[0].name
    return np.concatenate([model.run(None, {name: image[None]})[0] for image in images])


if __name__ == "__main__":
    sys.exit(main())
