"""`fhecompile MODEL`: compiles a model and says what running its plan will cost."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fhecompile.commands.model_options import model_options, read_options
from fhecompile.commands.screen import Screen, output_options
from fhecompile.errors import FheCompileError
from fhecompile.options import CompileOptions

if TYPE_CHECKING:
    from fhecompile.compile import Compilation

DEFAULTS = CompileOptions()


@click.command("compile", short_help="Compiles a model; the word may be left out.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Plan file.  [default: MODEL.fheplan]"
)
@click.option(
    "--precision-bits",
    type=float,
    default=8.0,
    show_default=True,
    help="Largest error of an output: 2^-BITS of the largest output.",
)
@click.option(
    "--activation-error",
    type=float,
    metavar="E",
    help="What fitted functions may change, as a share of the largest output, apart from noise.  "
    "[default: 3/4 of 2^-BITS, noise included]",
)
@click.option(
    "--max-keys",
    type=int,
    default=DEFAULTS.max_keys,
    show_default=True,
    metavar="N",
    help="Rotation keys at most; rare rotations are composed of others.",
)
@model_options
@click.option("--explain", is_flag=True, help="What passes did, linear maps, layouts, precision.")
@output_options
def compile_command(
    model: Path,
    output: Path | None,
    precision_bits: float,
    activation_error: float | None,
    max_keys: int,
    explain: bool,
    as_json: bool,
    verbose: bool,
    quiet: bool,
    **given: Any,
) -> None:
    """Compiles an ONNX model to a plan and says what running it will cost."""
    from fhecompile.ir.fitted_functions import FittedFunctions
    from fhecompile.plan.files import check_writable
    from fhecompile.plan.summary import describe_plan, summarise
    from fhecompile.report import tables
    from fhecompile.report.explain import describe_explained, explain_plan
    from runtime.costs import machine_table
    from runtime.processor import usable_cores

    screen = Screen.start(as_json, verbose, quiet)
    target = output or model.with_suffix(".fheplan")
    if target.exists() and model.exists() and target.samefile(model):
        raise FheCompileError(
            "cannot-write",
            "that is the model itself",
            node=str(target),
            hint="choose another place with -o",
        )
    check_writable(target)
    calibrate, options = read_options(
        given,
        precision_bits=precision_bits,
        activation_error=activation_error,
        max_keys=max_keys,
    )
    compilation = compile_shown(screen, model, calibrate, options)
    plan, threads = compilation.plan, usable_cores()
    facts = compilation.program.facts
    fitted = facts[FittedFunctions] if FittedFunctions in facts else FittedFunctions(())
    summary = summarise(plan, threads=threads, table=machine_table(screen.warn))
    if explain:
        screen.show(tables.pass_table(compilation.records), *explain_plan(plan))
        if fitted.functions:
            screen.show(tables.function_table(fitted.functions))
    screen.show(tables.rows_table(str(model), tables.cost_rows(plan, summary, threads)))
    warnings = [*tables.cost_warnings(plan, options.max_memory), *fitted.warnings]
    for text in warnings:
        screen.warn(text)
    plan.save(target)
    screen.show(f"written: {target}")
    screen.answer(
        {
            "output": str(target),
            **describe_plan(plan, summary, threads),
            **describe_explained(plan),
            "functions": [asdict(function) for function in fitted.functions],
            "passes": [asdict(record) for record in compilation.records],
            "warnings": warnings,
        }
    )


def compile_shown(
    screen: Screen, model: Path, calibration: str | None, options: CompileOptions
) -> Compilation:
    """`compile_model` behind a spinner."""
    with screen.working(f"compiling {model}"):
        from fhecompile.compile import compile_model

        return compile_model(model, calibration, options)
