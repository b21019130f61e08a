"""What every command shares: where text and JSON go, and the options --json, -v and -q."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

PIPED_WIDTH = 200
Function = TypeVar("Function", bound=Callable[..., Any])


class Screen:
    """Where the text for people goes: stdout, or stderr when stdout is for JSON."""

    def __init__(self, as_json: bool, quiet: bool) -> None:
        self.as_json, self.quiet = as_json, quiet

    @staticmethod
    def start(as_json: bool, verbose: bool, quiet: bool) -> Screen:
        """The screen of a command, and its log messages with -v."""
        if verbose:
            import logging

            form = "%(name)s: %(message)s"
            logging.basicConfig(level=logging.INFO, format=form, stream=sys.stderr)
        return Screen(as_json, quiet)

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
    def working(self, text: str) -> Iterator[Callable[[str], None]]:
        """A spinner on a terminal, nothing elsewhere; gives what changes its text."""
        if self.quiet or not sys.stderr.isatty():
            yield lambda text: None
            return
        with _console(sys.stderr).status(text) as status:
            yield status.update


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
