"""The whole road from a model to a plan.

ONNX file --frontend--> tensor graph --passes--> slot graph --emit_plan--> plan

The passes are those for a leveled evaluation wherever that is possible in the ring that refreshes
take; a network that is too deep for it is compiled with refreshes. Where these do not reach what is
asked for, as of many bits of a relu, it is leveled in a larger ring.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from fhecompile.errors import FheCompileError
from fhecompile.options import CompileOptions, Match

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fhecompile.ir.program import Pass, PassRecord, Program
    from fhecompile.ir.tensor import TensorGraph
    from fhecompile.plan import Plan

LEAST_MEMORY = 1 << 20
MOST_SAMPLES = 4096
MOST_LEVELS = 60
MOST_EXPECTED_DEPTH = 60  # that a leveled evaluation is tried for at all
REFRESHED_RING = 1 << 16  # that refreshes take at 128 and 192 bits of security


@dataclass(frozen=True, eq=False)
class Compilation:
    """A plan and how it came about: every pass with its time and remarks, the final program."""

    plan: Plan
    records: list[PassRecord]
    program: Program


def compile(
    model: str | Path,
    *,
    calibration: Mapping[str, NDArray[Any]] | NDArray[Any] | str | Path | None = None,
    options: CompileOptions | None = None,
    **changes: Any,
) -> Plan:
    """Compiles a trained network to a plan.

    Args:
        model: path of an ONNX file (opset 7 to 28, static shapes).
        calibration: inputs like those the network will see: an array (samples, *input shape), a
            mapping from input name to array, or the path of an .npz or .npy file. They set the
            ranges of all values; without them uniform noise in [-1, 1] is used.
        options: see `fhecompile.options.CompileOptions`; `changes` override single fields, e.g.
            `precision_bits=16`.

    Returns:
        The plan; `plan.save("model.fheplan")` writes it, `runtime.run(plan, x)` executes it.

    Raises:
        FheCompileError: the model cannot be compiled; the message says why and what to do.
    """
    return compile_model(model, calibration, _options(options, changes)).plan


def compile_model(
    model: str | Path,
    calibration: Mapping[str, NDArray[Any]] | NDArray[Any] | str | Path | None,
    options: CompileOptions,
) -> Compilation:
    """`compile` with the passes' records and the final program."""
    from fhecompile.ir.program import PassManager
    from fhecompile.pipeline import build_pipeline
    from fhecompile.plan import Plan
    from passes import REFRESHED_PIPELINE

    passes, given = start(model, calibration, options)
    own = options.passes and not options.passes.startswith("+")
    may_refresh = options.bootstrap and not own
    manager = PassManager(_in_refreshed_ring(passes, options) if may_refresh else passes)
    try:
        program = manager.run(given)
    except FheCompileError as error:
        if error.code not in ("too-deep", "large-ring") or not may_refresh:
            raise
        manager = PassManager(build_pipeline(options.passes, REFRESHED_PIPELINE))
        try:
            program = manager.run(given)
        except FheCompileError as refused:
            if error.code == "too-deep":
                # Where refreshes do not help either, what the leveled network lacks says more.
                raise (error if refused.code == "too-deep" else refused) from None
            manager = PassManager(passes)
            program = manager.run(given)
    return Compilation(program.facts[Plan], manager.records, program)


def _in_refreshed_ring(passes: list[Pass], options: CompileOptions) -> list[Pass]:
    """Passes that refuse a leveled evaluation in a larger ring than refreshes take."""
    from passes.select_parameters import SelectParameters

    if options.ring_dimension or options.security_bits > 192:
        return passes
    return [
        replace(p, largest_ring=p.largest_ring or REFRESHED_RING)
        if isinstance(p, SelectParameters)
        else p
        for p in passes
    ]


def start(
    model: str | Path,
    calibration: Mapping[str, NDArray[Any]] | NDArray[Any] | str | Path | None,
    options: CompileOptions,
) -> tuple[list[Pass], Program]:
    """The passes that the options ask for, and the program that the first of them takes."""
    from fhecompile.activation_file import with_activations
    from fhecompile.frontend import import_model
    from fhecompile.frontend.calibration import load_calibration, synthetic_calibration
    from fhecompile.ir.program import Facts, Program
    from fhecompile.pipeline import build_pipeline
    from fhecompile.plan import Plan
    from passes.emit_plan import ModelIdentity
    from passes.infer_ranges import Calibration

    check_options(options)
    options = with_activations(options)
    imported = import_model(model, options.input_shapes, options.outputs)
    passes = build_pipeline(options.passes, default_pipeline(imported.graph, options))
    if not any(Plan in p.gives for p in passes):
        raise FheCompileError(
            "pipeline-order", "no pass of the pipeline gives a plan", hint="end it with emit_plan"
        )
    samples = (
        synthetic_calibration(imported.graph)
        if calibration is None
        else load_calibration(calibration, imported.graph)
    )
    facts = Facts(
        [
            ModelIdentity(imported.name, imported.sha256),
            Calibration(samples, synthetic=calibration is None),
        ]
    )
    return passes, Program(imported.graph, options, facts)


def default_pipeline(graph: TensorGraph, options: CompileOptions) -> str:
    """The refreshed pipeline where it is asked for, or where a leveled one cannot do."""
    from fhecompile.ir.depth import expect_depth
    from passes import DEFAULT_PIPELINE, REFRESHED_PIPELINE

    error = options.activation_error or 2.0**-options.precision_bits
    is_deep = expect_depth(graph, max(1, round(-math.log2(error)))) > MOST_EXPECTED_DEPTH
    refreshed = options.bootstrap and (is_deep or bool(options.level_budget))
    return REFRESHED_PIPELINE if refreshed else DEFAULT_PIPELINE


def _options(options: CompileOptions | None, changes: Mapping[str, Any]) -> CompileOptions:
    known = [f.name for f in fields(CompileOptions)]
    for name in changes:
        if name not in known:
            raise FheCompileError(
                "unknown-option",
                f"compile has no option {name}",
                hint=f"the options are: {', '.join(known)}",
            )
    return replace(options or CompileOptions(), **changes)


def check_options(options: CompileOptions) -> None:
    """Raises when a value is out of its range."""
    from fhecompile.ckks.parameters import MAX_LOG_QP

    rings = sorted({n for bounds in MAX_LOG_QP.values() for n in bounds})
    n = options.ring_dimension
    wrong = ""
    if not 1 <= options.precision_bits <= 40:
        wrong = f"precision_bits is {options.precision_bits:g}, allowed are 1 to 40"
    elif options.activation_error is not None and not 0 < options.activation_error <= 1:
        wrong = (
            f"activation_error is {options.activation_error:g}, allowed are numbers above 0 to 1"
        )
    elif options.security_bits not in MAX_LOG_QP:
        wrong = f"security_bits is {options.security_bits}, allowed are 128, 192 and 256"
    elif n is not None and (n & (n - 1) or not 16 <= n <= rings[-1]):
        wrong = f"ring_dimension is {n}, allowed are powers of two from 16 to {rings[-1]}"
    elif not 1 <= options.batch <= MOST_SAMPLES:
        wrong = f"batch is {options.batch}, allowed are 1 to {MOST_SAMPLES}"
    elif options.match not in get_args(Match):
        wrong = f"match is {options.match}, allowed are cosine, distance and gallery"
    elif not math.isfinite(options.threshold):
        wrong = f"threshold is {options.threshold}, allowed are finite numbers"
    elif options.threshold and options.match not in ("cosine", "distance"):
        wrong = "threshold is given without pairs to match, there is nothing to subtract it from"
    elif options.batch > 1 and options.match == "gallery":
        wrong = f"batch is {options.batch}, but a gallery's templates are made one at a time"
    elif not 0 <= options.level_budget <= MOST_LEVELS:
        wrong = f"level_budget is {options.level_budget}, allowed are 0 to {MOST_LEVELS}"
    elif options.level_budget and not options.bootstrap:
        wrong = "level_budget is given without refreshes, for which it is meant"
    elif options.max_keys < 0:
        wrong = f"max_keys is {options.max_keys}, allowed are 0 and more"
    elif options.max_memory is not None and options.max_memory < LEAST_MEMORY:
        wrong = f"max_memory is {options.max_memory} bytes, allowed are 1 MiB and more"
    if wrong:
        raise FheCompileError("option-value", wrong)
