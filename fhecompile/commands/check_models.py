"""`fhecompile check`: models against their budgets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from fhecompile.commands.compile_model import compile_shown
from fhecompile.commands.screen import Screen, output_options
from fhecompile.errors import EXIT_CHECK_FAILED, EXIT_OK


@click.command("check")
@click.argument("models", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--budget", required=True, type=click.Path(path_type=Path), help="TOML file of budgets."
)
@output_options
def check_command(
    models: Sequence[Path], budget: Path, as_json: bool, verbose: bool, quiet: bool
) -> int:
    """Holds models to their budgets; exit code 1 when one is broken."""
    from fhecompile.plan.summary import summarise
    from fhecompile.report import budgets
    from fhecompile.report.tables import budget_table, path_table

    screen = Screen.start(as_json, verbose, quiet)
    entries = budgets.read_budgets(budget)
    wanted = [(model, budgets.find_budget(entries, model, budget)) for model in models]
    answers: list[dict[str, Any]] = []
    for model, entry in wanted:
        compilation = compile_shown(screen, model, entry.calibration, entry.options())
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
