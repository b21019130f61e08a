"""What the runtime's command lines share: types of arguments, and how they end.

Exit codes are those of `fhecompile.errors`, and 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fhecompile.errors import EXIT_ENVIRONMENT, EXIT_INTERNAL, EXIT_OK, FheCompileError
from fhecompile.plan import Plan
from fhecompile.version import __version__
from runtime.inputs import CalibrationWarning
from runtime.machine import parse_size
from runtime.progress import JsonProgress, ProgressBar
from runtime.timeline import write_timeline
from runtime.trace import Execution

EXIT_INTERRUPTED = 130


def complain(text: str) -> None:
    """A line for people about what is wrong."""
    print(text, file=sys.stderr)


def end_command(action: Callable[[], None], verbose: bool) -> int:
    """Does what a command does; prints its warnings and its error, and returns the exit code."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", CalibrationWarning)
            warnings.showwarning = _show_warning
            action()
        return EXIT_OK
    except FheCompileError as error:
        complain(f"error: {error.render()}")
        return error.exit_code
    except KeyboardInterrupt:
        complain("interrupted")
        return EXIT_INTERRUPTED
    except MemoryError:
        complain("error: not enough memory [not-enough-memory]")
        return EXIT_ENVIRONMENT
    except Exception as error:
        if verbose:
            traceback.print_exc()
        complain(
            f"internal error: {type(error).__name__}: {error}\n"
            "  this is a bug of fhecompile: please report it with the command, the version "
            f"({__version__}) and the output of -v"
        )
        return EXIT_INTERNAL


def add_process_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of a command that evaluates, perhaps for another program."""
    parser.set_defaults(evaluates=True)
    parser.add_argument(
        "--progress",
        choices=("bar", "json"),
        default="bar",
        help='json: lines {"progress": SHARE} on stdout and nothing else',
    )
    parser.add_argument(
        "--end-with", type=count, metavar="PID", help="end when this process, its parent, ends"
    )


def add_memory_option(parser: argparse.ArgumentParser) -> None:
    """Adds the option that limits the memory of an evaluation."""
    parser.add_argument(
        "--max-memory",
        type=size,
        metavar="SIZE",
        help="memory that the process may take, e.g. 8G: keys that do not fit stay on disk",
    )


@contextlib.contextmanager
def reporting(
    options: argparse.Namespace, label: str
) -> Iterator[tuple[ProgressBar | JsonProgress, Callable[[str], None]]]:
    """What reports a share that is done, and what says a line when all of it is.

    Args:
        options: of the command; with `--progress json` it is quiet from now on.
        label: what is done.
    """
    if getattr(options, "progress", "bar") == "json":
        options.quiet = True
        yield JsonProgress(sys.stdout), lambda _: None
        return
    bar = ProgressBar(sys.stderr)
    bar.shown = bar.shown and not options.quiet
    lines: list[str] = []
    try:
        bar.start(label)
        yield bar, lines.append
    finally:
        bar.finish()
    if not options.quiet:
        print("\n".join(lines))


def add_long_run_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of a command that may evaluate for hours."""
    parser.add_argument(
        "--checkpoint",
        type=Path,
        metavar="DIR",
        help="keep checkpoints in this folder; the same command goes on from them after a kill",
    )
    parser.add_argument(
        "--trace",
        type=Path,
        metavar="FILE",
        help="write the timeline of the evaluation, for chrome://tracing or Perfetto",
    )


def begin_with(
    report: ProgressBar | JsonProgress, say: Callable[[str], None]
) -> Callable[[float, float], None]:
    """What an evaluation is to call before it begins (`runtime.session.Begin`)."""

    def begin(share: float, predicted: float) -> None:
        if share:
            if isinstance(report, ProgressBar):
                report.finish()  # or the line would be written into the bar
            say(f"resuming at {int(100 * share)} %")
        report.begin(share, predicted)

    return begin


@contextlib.contextmanager
def tracing(path: Path | None, plan: Plan) -> Iterator[list[Execution]]:
    """Takes executions and writes their timeline, also when they fail or are interrupted."""
    executions: list[Execution] = []
    try:
        yield executions
    finally:
        if path is not None:
            try:
                write_timeline(path, plan, executions)
            except FheCompileError as error:  # no reason to lose the results, or another error
                complain(f"warning: {error.render()}")


def count(text: str) -> int:
    """An argument that is a number of things."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("is to be at least 1")
    return number


def size(text: str) -> int:
    """An argument that is a size in bytes."""
    try:
        return parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError("is to be a size like 800M or 8G") from error


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    complain(f"warning: {message}")
