"""`fhecompile inspect`: a plan's parameters, keys and cost per layer."""

from __future__ import annotations

from pathlib import Path

import click

from fhecompile.commands.screen import Screen, output_options


@click.command("inspect")
@click.argument("plan_path", metavar="PLAN", type=click.Path(path_type=Path))
@click.option("--text", "as_text", is_flag=True, help="The operations, one per line.")
@output_options
def inspect_command(
    plan_path: Path, as_text: bool, as_json: bool, verbose: bool, quiet: bool
) -> None:
    """Shows a plan's parameters, keys and cost per layer."""
    from fhecompile.plan import Plan
    from fhecompile.plan.summary import describe_plan, summarise
    from runtime.machine import usable_cores

    screen = Screen.start(as_json, verbose, quiet)
    plan = Plan.load(plan_path)
    if as_text and not as_json:
        from fhecompile.plan.text import operation_lines

        for line in operation_lines(plan):
            click.echo(line)
        return
    threads = usable_cores()
    summary = summarise(plan, plan_path.stat().st_size, threads)
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
