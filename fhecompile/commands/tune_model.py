"""`fhecompile tune`: what precision costs in time, memory and keys."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from fhecompile.commands.model_options import model_options, read_options
from fhecompile.commands.screen import Screen, output_options
from fhecompile.options import CompileOptions

DEFAULT_PRECISIONS = "4,6,8,10,12,14,16,18,20"
Number = TypeVar("Number", int, float)


def _list_of(kind: Callable[[str], Number], example: str) -> Callable[..., list[Number]]:
    """A callback that reads numbers with commas between them; each is kept once, in order."""

    def read(ctx: click.Context, param: click.Parameter, text: str) -> list[Number]:
        try:
            return sorted({kind(part) for part in text.split(",")})
        except ValueError as error:
            raise click.BadParameter(f"{text!r} is no list like {example}", ctx, param) from error

    return read


@click.command("tune")
@click.option(
    "--precision-bits",
    "precisions",
    metavar="LIST",
    default=DEFAULT_PRECISIONS,
    show_default=True,
    callback=_list_of(float, "8,12,16"),
    help="Precisions to compile for.",
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
@model_options
@output_options
def tune_command(
    model: Path,
    precisions: list[float],
    keys: list[int],
    as_json: bool,
    verbose: bool,
    quiet: bool,
    **given: Any,
) -> None:
    """Compares precisions and key budgets; writes no plan."""
    screen = Screen.start(as_json, verbose, quiet)
    calibrate, options = read_options(given)
    with screen.working(f"compiling {model}") as say:
        from fhecompile.report.tuning import describe_points, tune_table
        from fhecompile.tune import tune
        from runtime.costs import machine_table
        from runtime.processor import usable_cores

        threads, points, table = usable_cores(), [], machine_table(screen.warn)
        for point in tune(model, calibrate, options, precisions, keys, threads, table):
            points.append(point)
            say(f"compiling {model}: {len(points)} of {len(precisions) * len(keys)}")
    screen.show(tune_table(str(model), points, threads, table.measured))
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
            "points": describe_points(points),
        }
    )
