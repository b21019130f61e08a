"""`python -m runtime.run PLAN --input x.npz`: runs a plan from the command line.

`runtime.run` is also the function that runs a plan. Importing this module puts it in the function's
place in the package, so the module can be called like the function.

What people read goes to stdout, or to stderr under `--json`, when stdout is one JSON value. Exit
codes are those of `runtime.command`. The standard library and numpy only: a server needs no more.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import sys
import time
import types
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fhecompile.errors import EXIT_ENVIRONMENT, FheCompileError
from fhecompile.plan import Plan
from fhecompile.plan.files import check_writable
from fhecompile.version import __version__
from runtime.command import (
    add_long_run_options,
    add_memory_option,
    begin_with,
    complain,
    count,
    end_command,
    size,
    tracing,
)
from runtime.inputs import CalibrationWarning, check_inputs, read_inputs
from runtime.machine import peak_bytes
from runtime.precision import precision_lines
from runtime.progress import ProgressBar
from runtime.samples import write_outputs
from runtime.session import MODES, InferenceSession, run
from runtime.tuning import tune_process

SHOWN_VALUES = 8
Arrays = Mapping[str, NDArray[Any]]


class _CallableModule(types.ModuleType):
    __call__ = staticmethod(run)


sys.modules[__name__].__class__ = _CallableModule


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns its exit code.

    Without `arguments` it is the process's own command line: an encrypted run then starts the
    process again in the environment of `runtime.tuning`.
    """
    options = _parser().parse_args(arguments)
    if arguments is None and options.mode == "encrypt":
        tune_process()
    return end_command(lambda: _run(options), options.verbose)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m runtime.run", description="Runs a plan on inputs from a file."
    )
    add = parser.add_argument
    add("plan", type=Path, metavar="PLAN", help="the plan file")
    add(
        "--input",
        required=True,
        metavar="FILE",
        help=".npz with one array per input, .npy, or file.npz:array for one input",
    )
    add("--mode", choices=MODES, default="encrypt", help="default: encrypt")
    add("--output", type=Path, metavar="FILE", help="write the outputs to this .npz or .npy file")
    add("--samples", type=count, metavar="N", help="run only the first N samples")
    add(
        "--threads",
        type=count,
        metavar="N",
        help="default: as calibrated, or every core",
    )
    add(
        "--in-flight",
        type=count,
        metavar="N",
        help="encrypted samples evaluated at once at most; default: as many as memory allows",
    )
    add(
        "--cache-constants",
        type=size,
        metavar="SIZE",
        help="memory for encoded constants that later samples use again, e.g. 8G; default: none",
    )
    add_memory_option(parser)
    add_long_run_options(parser)
    add("--reference", type=Path, metavar="MODEL", help="compare with this model in ONNX Runtime")
    add("--ignore-range", action="store_true", help="accept inputs outside the calibrated range")
    add(
        "--precision",
        action="store_true",
        help="measure the noise of every layer against its prediction; an encrypted run decrypts "
        "layers for that and takes longer",
    )
    add("--insecure-toy", action="store_true", help="accept a plan that is not secure")
    add("--json", action="store_true", help="JSON on stdout, text on stderr")
    add("-v", "--verbose", action="store_true", help="tracebacks of internal errors")
    add("-q", "--quiet", action="store_true", help="errors and warnings only")
    add("--version", action="version", version=f"runtime {__version__}")
    return parser


def _run(options: argparse.Namespace) -> None:
    def say(text: str) -> None:
        if not options.quiet:
            print(text, file=sys.stderr if options.json else sys.stdout)

    plan = Plan.load(options.plan)
    if options.output:
        check_writable(options.output, "--output")
    if options.trace:
        check_writable(options.trace, "--trace")
    feeds = _first(read_inputs(options.input, plan), plan, options.samples)
    with warnings.catch_warnings():  # the session warns; this fails before keys are made
        warnings.simplefilter("ignore", CalibrationWarning)
        tensors = check_inputs(plan, feeds, options.ignore_range)
    samples = len(tensors[0]) if tensors else 1
    expected = _reference(options.reference, plan, tensors) if options.reference else None
    if plan.parameters.insecure:
        complain("warning: this plan is INSECURE: its ring is a toy, for tests only")
    outputs, session, total = _evaluate(options, plan, feeds, say)
    timings = session.timings
    result: dict[str, Any] = {
        "plan": str(options.plan),
        "model": plan.program.model_name,
        "mode": options.mode,
        "threads": session.threads,
        "samples": samples,
        "seconds": {
            "keygen": timings.keygen,
            "encrypt": timings.encrypt,
            "evaluate": timings.evaluate,
            "decrypt": timings.decrypt,
            "total": total,
        },
        "seconds_by_operation": timings.seconds_by_operation(),
        "peak_rss_bytes": peak_bytes(),
        "outside_range": [
            {"place": place, "text": text} for place, text in session.outside.texts.items()
        ],
        **_errors(outputs, expected),
        "outputs": {name: _shown(value) for name, value in outputs.items()},
    }
    for name, value in outputs.items():
        first = " ".join(f"{v:.5g}" for v in value.ravel()[:SHOWN_VALUES])
        more = " ..." if value.size > SHOWN_VALUES else ""
        say(f"{name}: {' x '.join(map(str, value.shape))}: {first}{more}")
    say(", ".join(f"{phase} {seconds:.2f} s" for phase, seconds in result["seconds"].items()))
    say(f"peak memory {result['peak_rss_bytes'] / 2**20:.0f} MiB, {session.threads} threads")
    if expected is not None:
        cosine = "none" if result["cosine"] is None else f"{result['cosine']:.9f}"
        say(f"against ONNX Runtime: max error {result['max_abs_error']:.3g}, cosine {cosine}")
    if options.precision:
        layers = session.precision()
        result["precision"] = [layer.describe() for layer in layers]
        for line in precision_lines(layers):
            say(line)
    if options.output:
        write_outputs(options.output, outputs)
        say(f"written: {options.output}")
    if options.json:
        print(json.dumps(result, indent=2, allow_nan=False))


def _evaluate(
    options: argparse.Namespace, plan: Plan, feeds: Arrays, say: Callable[[str], None]
) -> tuple[dict[str, NDArray[np.float32]], InferenceSession, float]:
    """Outputs by name, the closed session, and the seconds from its opening to the outputs."""
    bar = ProgressBar(sys.stderr)
    bar.shown = bar.shown and not options.quiet
    started = time.perf_counter()
    with tracing(options.trace, plan) as executions, contextlib.ExitStack() as stack:
        stack.callback(bar.finish)
        made = options.mode == "encrypt" and not options.checkpoint  # or they may be there already
        bar.start("making keys" if made else "preparing")
        session = stack.enter_context(
            InferenceSession(
                plan,
                options.mode,
                threads=options.threads,
                ignore_range=options.ignore_range,
                insecure_toy=options.insecure_toy,
                progress=bar.update,
                in_flight=options.in_flight,
                cache_constants=options.cache_constants,
                max_memory=options.max_memory,
                begin=begin_with(bar, say),
                checkpoint=options.checkpoint,
                precision=options.precision,
            )
        )
        stack.callback(lambda: executions.extend(session.timings.executions))
        bar.start("evaluating")
        values = session.run(None, feeds)
        total = time.perf_counter() - started
    names = [info.name for info in plan.program.outputs]
    return dict(zip(names, values, strict=True)), session, total


def _first(feeds: Arrays, plan: Plan, samples: int | None) -> Arrays:
    if samples is None:
        return feeds
    shapes = {info.name: info.shape for info in plan.program.inputs}
    return {
        name: value if value.shape == shapes[name] else value[:samples]
        for name, value in feeds.items()
    }


def _reference(
    path: Path, plan: Plan, tensors: Sequence[NDArray[np.float64]]
) -> list[NDArray[np.float64]]:
    """The model's values called like the plan's outputs, each of shape (samples, elements)."""
    if not path.is_file():
        raise FheCompileError("no-such-file", "there is no such file", node=str(path))
    inputs, outputs = plan.program.inputs, plan.program.outputs
    samples = {info.name: x for info, x in zip(inputs, tensors, strict=True)}
    try:
        from fhecompile.frontend.reference import run_reference_samples

        values = run_reference_samples(path, samples, [info.name for info in outputs])
    except ImportError as error:
        raise FheCompileError(
            "onnxruntime-missing",
            f"--reference needs {error.name}, which is not installed",
            hint=f"pip install {error.name}, or leave --reference out",
            exit_code=EXIT_ENVIRONMENT,
        ) from error
    except FheCompileError as error:
        raise _no_reference(path, error.reason) from error
    expected: list[NDArray[np.float64]] = [
        np.asarray(y, np.float64).reshape(len(y), -1) for y in values.values()
    ]
    for info, y in zip(outputs, expected, strict=True):
        if y.shape[1] != math.prod(info.shape):
            wrong = f"its {info.name} has {y.shape[1]} values, the plan's {math.prod(info.shape)}"
            raise _no_reference(path, wrong)
    return expected


def _no_reference(path: Path, reason: str) -> FheCompileError:
    hint = "give the ONNX file the plan was compiled from"
    return FheCompileError("reference-failed", reason, node=str(path), hint=hint)


def _errors(outputs: Arrays, expected: list[NDArray[np.float64]] | None) -> dict[str, float | None]:
    """The largest error and the smallest cosine over all samples and outputs."""
    if expected is None:
        return {"max_abs_error": None, "cosine": None}
    found = [
        np.asarray(y, np.float64).reshape(x.shape)
        for y, x in zip(outputs.values(), expected, strict=True)
    ]
    largest = max(float(np.abs(y - x).max()) for y, x in zip(found, expected, strict=True))
    cosines = [
        float(a @ b) / length if (length := float(np.linalg.norm(a) * np.linalg.norm(b))) else 0.0
        for y, x in zip(found, expected, strict=True)
        for a, b in zip(y, x, strict=True)
    ]
    return {"max_abs_error": _finite(largest), "cosine": _finite(min(cosines))}


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _shown(value: NDArray[Any]) -> dict[str, Any]:
    return {
        "shape": list(value.shape),
        "values": [_finite(v) for v in value.ravel()],
    }


if __name__ == "__main__":
    sys.exit(main())
