"""`fhecompile tune`: what precision costs in time, memory and keys, and keeps of the accuracy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from fhecompile.commands.model_options import model_options, read_options
from fhecompile.commands.screen import Screen, output_options
from fhecompile.errors import FheCompileError
from fhecompile.options import CompileOptions

DEFAULT_PRECISIONS = [4.0, 6.0, 8.0, 10.0, 12.0, 14.0, 16.0, 18.0, 20.0]
DEFAULT_ACTIVATION_ERRORS = [0.4, 0.2, 0.1, 0.05, 0.025, 0.0125, 0.00625]
Number = TypeVar("Number", int, float)


def _list_of(
    kind: Callable[[str], Number], example: str, largest_first: bool = False
) -> Callable[..., list[Number] | None]:
    """A callback that reads numbers with commas between them; each is kept once, in order."""

    def read(ctx: click.Context, param: click.Parameter, text: str | None) -> list[Number] | None:
        if text is None:
            return None
        try:
            return sorted({kind(part) for part in text.split(",")}, reverse=largest_first)
        except ValueError as error:
            raise click.BadParameter(f"{text!r} is no list like {example}", ctx, param) from error

    return read


def _check_picture(path: Path) -> None:
    if path.suffix.lower() != ".svg":
        raise FheCompileError(
            "cannot-write",
            "the picture is an SVG file",
            node=str(path),
            hint="give --plot a name that ends with .svg",
        )


def _shown(numbers: list[float]) -> str:
    return ",".join(f"{number:g}" for number in numbers)


@click.command("tune")
@click.option(
    "--precision-bits",
    "precisions",
    metavar="LIST",
    callback=_list_of(float, "8,12,16"),
    help=f"Precisions to compile for.  [default: {_shown(DEFAULT_PRECISIONS)}; where accuracy is "
    f"measured {CompileOptions().precision_bits:g}]",
)
@click.option(
    "--max-keys",
    "keys",
    metavar="LIST",
    default=str(CompileOptions().max_keys),
    show_default=True,
    callback=_list_of(int, "32,48,64"),
    help="Numbers of rotation keys to allow.",
)
@click.option(
    "--activation-error",
    "activation_errors",
    metavar="LIST",
    callback=_list_of(float, "0.2,0.1,0.05", largest_first=True),
    help="Measure accuracy where fitted activations may change outputs by these shares of the "
    f"largest one.  [default: {_shown(DEFAULT_ACTIVATION_ERRORS)}]",
)
@click.option(
    "--labels",
    metavar="FILE",
    help="Measure accuracy by the class of each sample: .npy, or file.npz:array.",
)
@click.option(
    "--test",
    metavar="DATA",
    help="Samples to measure accuracy on, like --calibrate; default: those of --calibrate.",
)
@click.option(
    "--plot",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Draw accuracy over depth and over time: an SVG file.",
)
@model_options
@output_options
def tune_command(
    model: Path,
    precisions: list[float] | None,
    keys: list[int],
    activation_errors: list[float] | None,
    labels: str | None,
    test: str | None,
    plot: Path | None,
    as_json: bool,
    verbose: bool,
    quiet: bool,
    **given: Any,
) -> None:
    """Compares precisions, key budgets and activation errors; writes no plan."""
    screen = Screen.start(as_json, verbose, quiet)
    calibrate, options = read_options(given)
    with screen.working(f"compiling {model}") as say:
        from fhecompile.plan.files import check_writable, write_atomically
        from fhecompile.report.accuracy import accuracy_table, describe_tested
        from fhecompile.report.accuracy_plot import draw_accuracy
        from fhecompile.report.tuning import describe_points, tune_table
        from fhecompile.tune import Sweep, Tuning
        from runtime.costs import machine_table
        from runtime.processor import usable_cores

        if plot is not None:
            _check_picture(plot)
            check_writable(plot, "--plot")
        if activation_errors or labels or test or plot:
            sweep = Sweep(
                precisions or [options.precision_bits],
                keys,
                activation_errors or DEFAULT_ACTIVATION_ERRORS,
                is_measured=True,
            )
        else:
            sweep = Sweep(precisions or DEFAULT_PRECISIONS, keys)
        threads, points, table = usable_cores(), [], machine_table(screen.warn)
        tuning = Tuning(model, calibrate, options, sweep, test=test, labels=labels)
        for point in tuning.points(threads, table):
            points.append(point)
            say(f"compiling {model}: {len(points)} of {tuning.count}")
    tested, data = tuning.tested, test or ""
    if tested is None:
        screen.show(tune_table(str(model), points, threads, table.measured))
    else:
        screen.show(accuracy_table(str(model), points, tested, data, threads, table.measured))
        if plot is not None:
            drawn = draw_accuracy(str(model), points, tested, data, threads)
            write_atomically(plot, drawn.encode(), "--plot")
            screen.show(f"written: {plot}")
        if not tuning.has_functions:
            screen.warn(
                "every activation of this network is a polynomial already, and exact: activation "
                "errors change nothing"
            )
    for text in tuning.warnings:
        screen.warn(text)
    if calibrate is None:
        screen.warn(
            "no calibration data was given: ranges and errors are those of uniform noise in "
            "[-1, 1]; give data like the network's inputs with --calibrate data.npz"
        )
    screen.answer(
        {
            "model": str(model),
            "threads": threads,
            "measured_costs": table.measured,
            "tested": None if tested is None else describe_tested(tested, data),
            "points": describe_points(points),
            "warnings": list(tuning.warnings),
        }
    )
