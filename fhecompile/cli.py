"""The command line: `fhecompile MODEL.onnx`, and `inspect`, `check`, `passes`.

What people read goes to stdout, or to stderr under `--json`, when stdout is one JSON value. Errors
go to stderr; the exit code says whose they are (`fhecompile.errors`). Only click is imported before
a command runs, so that `--help` is quick.
"""

from __future__ import annotations

import difflib
import json
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fhecompile.errors import (
    EXIT_CHECK_FAILED,
    EXIT_ENVIRONMENT,
    EXIT_INTERNAL,
    EXIT_OK,
    FheCompileError,
)
from fhecompile.version import __version__

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from fhecompile.compile import Compilation
    from fhecompile.options import CompileOptions

EXIT_INTERRUPTED = 130
PIPED_WIDTH = 200
Function = TypeVar("Function", bound=Callable[..., Any])


class ModelOrCommand(click.Group):
    """A group whose first argument may be a model: `fhecompile m.onnx` compiles it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Puts `compile` before arguments that name no command."""
        if args and args[0] not in self.commands and args[0] not in ("-h", "--help", "--version"):
            near = difflib.get_close_matches(args[0], self.commands)
            if near and not Path(args[0]).exists():
                raise click.UsageError(
                    f"There is no command or model {args[0]}. Did you mean {near[0]}?", ctx
                )
            args = ["compile", *args]
        return super().parse_args(ctx, args)

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Both ways to call the program."""
        formatter.write_usage(ctx.command_path, "MODEL.onnx [OPTIONS]")
        formatter.write_usage(ctx.command_path, "COMMAND [ARGS]...", prefix="       ")

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The group's options, and those of `compile`, the command that need not be named."""
        compiling = self.commands["compile"]
        parameters = (*compiling.params, *self.get_params(ctx))
        records = [p.get_help_record(ctx) for p in parameters if isinstance(p, click.Option)]
        with formatter.section("Options"):
            formatter.write_dl([record for record in records if record])
        self.format_commands(ctx, formatter)


class Screen:
    """Where the text for people goes: stdout, or stderr when stdout is for JSON."""

    def __init__(self, as_json: bool, quiet: bool) -> None:
        self.as_json, self.quiet = as_json, quiet

    def show(self, *items: RenderableType) -> None:
        """Prints texts and tables."""
        if self.quiet:
            return
        console = _console(sys.stderr if self.as_json else sys.stdout)
        for item in items:
            with console.capture() as printed:
                console.print(item, soft_wrap=isinstance(item, str))
            lines = [text for line in printed.get().splitlines() if (text := line.rstrip())]
            print("\n".join(lines), file=console.file, end="\n" * (2 - isinstance(item, str)))

    def warn(self, text: str) -> None:
        """Prints a warning on stderr, also with -q."""
        click.echo(f"warning: {text}", err=True)

    def answer(self, value: Any) -> None:
        """Prints the machine-readable result."""
        if self.as_json:
            click.echo(json.dumps(value, indent=2, allow_nan=False))

    @contextmanager
    def working(self, text: str) -> Iterator[None]:
        """A spinner on a terminal, nothing elsewhere."""
        if self.quiet or not sys.stderr.isatty():
            yield
            return
        with _console(sys.stderr).status(text):
            yield


def _console(file: Any) -> Console:
    from rich.console import Console

    console = Console(file=file, markup=False, emoji=False, highlight=False)
    if not console.is_terminal:
        console.width = PIPED_WIDTH
    return console


def output_options(function: Function) -> Function:
    """--json, -v and -q, which every command has."""
    for option in (
        click.option("-q", "--quiet", is_flag=True, help="Errors and warnings only."),
        click.option("-v", "--verbose", is_flag=True, help="Log messages and tracebacks."),
        click.option("--json", "as_json", is_flag=True, help="JSON on stdout, text on stderr."),
    ):
        function = option(function)
    return function


def _shape(text: str) -> tuple[str, tuple[int, ...]]:
    name, equals, sizes = text.rpartition("=")
    try:
        shape = tuple(int(size) for size in sizes.split("x"))
    except ValueError:
        shape = ()
    if not (name and equals and shape and min(shape) > 0):
        raise click.BadParameter(f"{text!r} is not name=1x3x32x32", param_hint="--input-shape")
    return name, shape


@click.group(
    cls=ModelOrCommand,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="fhecompile", message="%(prog)s %(version)s")
def cli() -> None:
    """Compiles trained networks (ONNX) to programs over CKKS ciphertexts."""


@cli.command("compile", short_help="Compiles a model; the word may be left out.")
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Plan file.  [default: MODEL.fheplan]"
)
@click.option(
    "--calibrate",
    metavar="DATA",
    help="Samples like the network's inputs: .npy, .npz, or file.npz:array.",
)
@click.option(
    "--precision-bits",
    type=float,
    default=8.0,
    show_default=True,
    help="Largest error of an output: 2^-BITS of the largest output.",
)
@click.option(
    "--security",
    type=click.Choice(["128", "192", "256"]),
    default="128",
    show_default=True,
    help="Classical security in bits.",
)
@click.option("--insecure-toy", is_flag=True, help="Allow a ring too small to be secure.")
@click.option("--ring-dimension", type=int, metavar="N", help="Use this ring dimension.")
@click.option(
    "--input-shape",
    "input_shapes",
    multiple=True,
    metavar="NAME=1x3x32x32",
    help="Shape of an input whose ONNX shape is dynamic; may be repeated.",
)
@click.option("--passes", default="", metavar="TEXT", help="Pipeline; see `fhecompile passes`.")
@click.option("--explain", is_flag=True, help="What every pass did, and why not.")
@output_options
def compile_command(
    model: Path,
    output: Path | None,
    calibrate: str | None,
    precision_bits: float,
    security: str,
    insecure_toy: bool,
    ring_dimension: int | None,
    input_shapes: Sequence[str],
    passes: str,
    explain: bool,
    as_json: bool,
    verbose: bool,
    quiet: bool,
) -> None:
    """Compiles an ONNX model to a plan and says what running it will cost."""
    from fhecompile.options import CompileOptions
    from fhecompile.plan.files import check_writable
    from fhecompile.plan.summary import describe_plan, summarise
    from fhecompile.report import tables
    from runtime.costs import machine_table
    from runtime.processor import usable_cores

    screen = _screen(as_json, verbose, quiet)
    target = output or model.with_suffix(".fheplan")
    if target.exists() and model.exists() and target.samefile(model):
        raise FheCompileError(
            "cannot-write",
            "that is the model itself",
            node=str(target),
            hint="choose another place with -o",
        )
    check_writable(target)
    options = CompileOptions(
        precision_bits=precision_bits,
        security_bits=int(security),
        insecure_toy=insecure_toy,
        ring_dimension=ring_dimension,
        input_shapes=dict(map(_shape, input_shapes)),
        passes=passes,
    )
    compilation = _compile(screen, model, calibrate, options)
    plan, threads = compilation.plan, usable_cores()
    summary = summarise(plan, threads=threads, table=machine_table(screen.warn))
    if explain:
        screen.show(tables.pass_table(compilation.records))
    screen.show(tables.rows_table(str(model), tables.cost_rows(plan, summary, threads)))
    warnings = tables.cost_warnings(plan)
    for text in warnings:
        screen.warn(text)
    plan.save(target)
    screen.show(f"written: {target}")
    screen.answer(
        {
            "output": str(target),
            **describe_plan(plan, summary, threads),
            "passes": [asdict(record) for record in compilation.records],
            "warnings": warnings,
        }
    )


@cli.command("inspect")
@click.argument("plan_path", metavar="PLAN", type=click.Path(path_type=Path))
@click.option("--text", "as_text", is_flag=True, help="The operations, one per line.")
@output_options
def inspect_command(
    plan_path: Path, as_text: bool, as_json: bool, verbose: bool, quiet: bool
) -> None:
    """Shows a plan's parameters, keys and cost per layer."""
    from fhecompile.plan import Plan
    from fhecompile.plan.summary import describe_plan, summarise
    from runtime.costs import machine_table
    from runtime.processor import usable_cores

    screen = _screen(as_json, verbose, quiet)
    plan = Plan.load(plan_path)
    if as_text and not as_json:
        from fhecompile.plan.text import operation_lines

        for line in operation_lines(plan):
            click.echo(line)
        return
    threads = usable_cores()
    summary = summarise(plan, plan_path.stat().st_size, threads, machine_table(screen.warn))
    if as_json:
        described = describe_plan(plan, summary, threads)
        if as_text:
            from fhecompile.plan.text import operation_lines

            described["operations"] = list(operation_lines(plan))
        screen.answer(described)
        return
    from fhecompile.report import tables

    title = f"{plan.program.model_name}, by {plan.program.producer}"
    screen.show(
        tables.rows_table(title, tables.field_rows(plan, summary, threads)),
        tables.layer_table(summary.layers),
        tables.openfhe_table(plan),
    )
    for text in tables.cost_warnings(plan):
        screen.warn(text)


@cli.command("check")
@click.argument("models", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--budget", required=True, type=click.Path(path_type=Path), help="TOML file of budgets."
)
@output_options
def check_command(
    models: Sequence[Path], budget: Path, as_json: bool, verbose: bool, quiet: bool
) -> int:
    """Holds models to their budgets; exit code 1 when one is broken."""
    from fhecompile.options import CompileOptions
    from fhecompile.plan.summary import summarise
    from fhecompile.report import budgets
    from fhecompile.report.tables import budget_table, path_table

    screen = _screen(as_json, verbose, quiet)
    entries = budgets.read_budgets(budget)
    wanted = [(model, budgets.find_budget(entries, model, budget)) for model in models]
    answers: list[dict[str, Any]] = []
    for model, entry in wanted:
        options = CompileOptions(precision_bits=entry.precision_bits)
        compilation = _compile(screen, model, entry.calibration, options)
        lines = budgets.compare(entry, summarise(compilation.plan))
        path = budgets.deepest_path(compilation.program.graph)
        kept = all(line.kept for line in lines)
        screen.show(budget_table(str(model), lines))
        if not kept:
            broken = ", ".join(line.name for line in lines if not line.kept)
            screen.show(path_table("deepest path", path))
            click.echo(f"{model}: over budget: {broken}", err=True)
        answers.append(
            {
                "model": str(model),
                "kept": kept,
                "limits": [{**asdict(x), "slack": x.slack, "kept": x.kept} for x in lines],
                "deepest_path": [asdict(step) for step in path],
            }
        )
    screen.answer({"kept": all(a["kept"] for a in answers), "models": answers})
    return EXIT_OK if all(a["kept"] for a in answers) else EXIT_CHECK_FAILED


@cli.command("passes")
@output_options
def passes_command(as_json: bool, verbose: bool, quiet: bool) -> None:
    """Lists the passes, their options and what they do."""
    from fhecompile.pipeline import describe_passes
    from fhecompile.report.tables import pass_list_table

    screen = _screen(as_json, verbose, quiet)
    described = describe_passes()
    screen.answer([asdict(entry) for entry in described])
    if not as_json:
        screen.show(
            pass_list_table((p.name, p.options_text, p.text) for p in described),
            "change options of the default pipeline: --passes '+name{option=value;...},...'",
        )


def _screen(as_json: bool, verbose: bool, quiet: bool) -> Screen:
    if verbose:
        import logging

        logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s", stream=sys.stderr)
    return Screen(as_json, quiet)


def _compile(
    screen: Screen, model: Path, calibration: str | None, options: CompileOptions
) -> Compilation:
    with screen.working(f"compiling {model}"):
        from fhecompile.compile import compile_model

        return compile_model(model, calibration, options)


def main(arguments: Iterable[str] | None = None) -> int:
    """Runs the command line; returns its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = cli.main(given, prog_name="fhecompile", standalone_mode=False)
        return int(code or EXIT_OK)
    except FheCompileError as error:
        click.echo(f"error: {error.render()}", err=True)
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return EXIT_INTERRUPTED
    except MemoryError:
        click.echo("error: not enough memory [not-enough-memory]", err=True)
        return EXIT_ENVIRONMENT
    except Exception as error:
        if {"-v", "--verbose"}.intersection(given):
            traceback.print_exc()
        click.echo(
            f"internal error: {type(error).__name__}: {error}\n"
            "  this is a bug of fhecompile: please report it with the command, the version "
            f"({__version__}) and the output of -v",
            err=True,
        )
        return EXIT_INTERNAL


if __name__ == "__main__":
    sys.exit(main())
