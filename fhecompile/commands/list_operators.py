"""`fhecompile ops`: the ONNX operators that are compiled, and what to do instead of others."""

from __future__ import annotations

from dataclasses import asdict

import click

from fhecompile.commands.screen import Screen, output_options


@click.command("ops")
@output_options
def operators_command(as_json: bool, verbose: bool, quiet: bool) -> None:
    """Lists the ONNX operators that are compiled, and what to do instead of others."""
    from fhecompile.frontend.operators import describe_operators
    from fhecompile.report.tables import operator_table, refused_table

    screen = Screen.start(as_json, verbose, quiet)
    described = describe_operators()
    screen.answer([asdict(entry) for entry in described])
    if not as_json:
        screen.show(
            operator_table((e.name, e.opset, e.text) for e in described if e.supported),
            refused_table((e.name, e.text) for e in described if not e.supported),
            "operators whose operands are all constant are evaluated, whatever they are",
        )
