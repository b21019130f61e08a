"""`fhecompile passes`: the passes and their options."""

from __future__ import annotations

from dataclasses import asdict

import click

from fhecompile.commands.screen import Screen, output_options


@click.command("passes")
@output_options
def passes_command(as_json: bool, verbose: bool, quiet: bool) -> None:
    """Lists the passes, their options and what they do."""
    from fhecompile.pipeline import describe_passes
    from fhecompile.report.tables import pass_list_table

    screen = Screen.start(as_json, verbose, quiet)
    described = describe_passes()
    screen.answer([asdict(entry) for entry in described])
    if not as_json:
        screen.show(
            pass_list_table((p.name, p.options_text, p.text) for p in described),
            "change options of the default pipeline: --passes '+name{option=value;...},...'",
        )
