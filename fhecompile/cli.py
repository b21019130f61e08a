"""The command line: `fhecompile MODEL.onnx`, and `inspect`, `check`, `tune`, `passes`, `ops`.

What people read goes to stdout, or to stderr under `--json`, when stdout is one JSON value. Errors
go to stderr; the exit code says whose they are (`fhecompile.errors`). Only click is imported before
a command runs, so that `--help` is quick.
"""

from __future__ import annotations

import difflib
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path

import click

from fhecompile.commands.check_models import check_command
from fhecompile.commands.compile_model import compile_command
from fhecompile.commands.inspect_plan import inspect_command
from fhecompile.commands.list_operators import operators_command
from fhecompile.commands.list_passes import passes_command
from fhecompile.commands.tune_model import tune_command
from fhecompile.errors import EXIT_ENVIRONMENT, EXIT_INTERNAL, EXIT_OK, FheCompileError
from fhecompile.version import __version__

EXIT_INTERRUPTED = 130


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


@click.group(
    cls=ModelOrCommand,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="fhecompile", message="%(prog)s %(version)s")
def cli() -> None:
    """Compiles trained networks (ONNX) to programs over CKKS ciphertexts."""


for _command in (
    *(compile_command, inspect_command, check_command, tune_command),
    *(passes_command, operators_command),
):
    cli.add_command(_command)


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
