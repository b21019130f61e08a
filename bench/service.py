"""`python bench/service.py PLAN --model MODEL --samples SAMPLES`: the whole service at full size.

PLAN is MODEL compiled with `--match gallery`, or with `--match cosine` and a threshold. A server is
started as users start it, without a secret key in its folder; a client makes keys and uploads them,
then enrols images of SAMPLES and verifies and identifies others against them over HTTP, or has
pairs of them compared. Times are what the client waits, everything included: encrypting, uploading,
evaluating, downloading, decrypting. Errors are against the cosines of what ONNX Runtime makes of
the same images.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fhecompile.frontend import import_model
from fhecompile.frontend.reference import run_reference_samples
from fhecompile.plan import Plan
from runtime.gallery.programs import TEMPLATE
from runtime.key_files import EVALUATION, make_keys
from runtime.processor import processor_name, usable_cores
from runtime.service.client import ServiceClient
from runtime.tuning import tune_process


def main() -> None:
    """Measures and prints JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("plan", type=Path)
    parser.add_argument("--model", type=Path, required=True, help="the ONNX file of the plan")
    parser.add_argument("--samples", type=Path, required=True, help=".npz file with `images`")
    parser.add_argument("--pairs", type=int, default=3, help="of images that are compared")
    parser.add_argument("--threshold", type=float, default=0.0, help="that of a plan of pairs")
    options = parser.parse_args()
    tune_process()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(options, Path(folder)), indent=2))


def measure(options: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Seconds of each step, and the largest error of a score."""
    plan, images = Plan.load(options.plan), np.load(options.samples)["images"]
    pairs = [(k, (k + 1) % len(images) if k % 2 else k) for k in range(options.pairs)]
    seconds: dict[str, list[float]] = {}

    def timed(step: str, action: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        result = action()
        seconds.setdefault(step, []).append(round(time.perf_counter() - started, 2))
        return result

    timed("keys", lambda: make_keys([plan], folder / "keys"))
    port, server, token = start_server(options.plan, folder)
    (name,) = (info.name for info in plan.program.inputs)
    (output,) = (info.name for info in plan.program.outputs)
    units = embeddings(options.model, images)
    errors: list[float] = []

    def compare(score: float, one: int, other: int) -> None:
        errors.append(abs(score + options.threshold - float(units[one] @ units[other])))

    try:
        with ServiceClient(f"http://127.0.0.1:{port}", token, plan, folder / "keys") as client:
            timed("upload_keys", client.upload_keys)
            for one, other in pairs:
                feeds = {name: images[[one, other]]}
                if output != TEMPLATE:
                    scored = timed("pair", partial(client.run, feeds))[output]
                    compare(float(scored.ravel()[0]), one, other)
                else:
                    timed("enrol", partial(client.enrol, f"image-{one}", {name: images[one]}))
            for one, other in pairs if output == TEMPLATE else []:
                feeds = {name: images[other]}
                score = timed("verify", partial(client.verify, f"image-{one}", feeds))
                compare(score, one, other)
            if output == TEMPLATE:
                scores = timed("identify", partial(client.identify, {name: images[-1]}))
                for one, _ in pairs:
                    compare(scores[f"image-{one}"], one, -1)
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()
    return {
        "machine": f"{processor_name()}, {usable_cores()} cores",
        "evaluation_key_bytes": (folder / "keys" / EVALUATION).stat().st_size,
        "seconds": seconds,
        "scores": len(errors),
        "max_error": max(errors),
    }


def start_server(plan: Path, folder: Path) -> tuple[int, subprocess.Popen[str], str]:
    """(port, process, token of a client) of a server on a new folder."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    runtime = [sys.executable, "-m", "runtime"]
    where = ["--folder", str(folder / "server")]
    added = subprocess.run(
        [*runtime, "add-client", *where, "bench"], check=True, capture_output=True, text=True
    )
    serve = [*runtime, "serve", *where, "--plan", str(plan), "--port", str(port)]
    server = subprocess.Popen(serve, stdout=subprocess.PIPE, env=dict(os.environ), text=True)
    assert server.stdout is not None
    server.stdout.readline()  # it says where it listens
    return port, server, added.stdout.strip()


def embeddings(model: Path, images: NDArray[np.float32]) -> NDArray[np.float64]:
    """Unit vectors of the images, by ONNX Runtime."""
    (name,) = import_model(model).graph.given()
    (found,) = run_reference_samples(model, {name: images[:, None]}).values()
    vectors = found.reshape(len(images), -1).astype(np.float64)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


if __name__ == "__main__":
    main()
