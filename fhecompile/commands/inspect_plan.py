"""`fhecompile inspect`: a plan's parameters, keys and cost per layer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fhecompile.commands.screen import Screen, output_options

if TYPE_CHECKING:
    from fhecompile.plan import Plan
    from fhecompile.plan.summary import PlanSummary


@click.command("inspect")
@click.argument("plan_path", metavar="PLAN", type=click.Path(path_type=Path))
@click.option("--text", "as_text", is_flag=True, help="The operations, one per line.")
@click.option("--explain", is_flag=True, help="Linear maps, pictures of layouts, precision.")
@click.option(
    "--html",
    "page",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Write all of it as one HTML file.",
)
@output_options
def inspect_command(
    plan_path: Path,
    as_text: bool,
    explain: bool,
    page: Path | None,
    as_json: bool,
    verbose: bool,
    quiet: bool,
) -> None:
    """Shows a plan's parameters, keys and cost per layer."""
    from fhecompile.plan import Plan
    from fhecompile.plan.summary import summarise
    from runtime.costs import machine_table
    from runtime.processor import usable_cores

    if as_text and explain:
        raise click.UsageError("--text shows the operations alone: leave out --explain")
    screen = Screen.start(as_json, verbose, quiet)
    if page is not None:
        _check_page(page, plan_path)
    plan, threads = Plan.load(plan_path), usable_cores()
    if as_text and not as_json and page is None:
        _show_operations(plan)
        return
    summary = summarise(plan, plan_path.stat().st_size, threads, machine_table(screen.warn))
    if page is not None:
        from fhecompile.plan.files import write_atomically
        from fhecompile.report.html import html_report

        write_atomically(page, html_report(plan, summary, threads).encode(), "--html")
    if as_json:
        _answer(screen, plan, summary, threads, as_text)
    elif as_text:
        _show_operations(plan)
    else:
        _show(screen, plan, summary, threads, explain)
    if page is not None and not as_text:
        screen.show(f"written: {page}")


def _check_page(page: Path, plan_path: Path) -> None:
    from fhecompile.errors import FheCompileError
    from fhecompile.plan.files import check_writable

    if page.exists() and plan_path.exists() and page.samefile(plan_path):
        raise FheCompileError(
            "cannot-write",
            "that is the plan itself",
            node=str(page),
            hint="choose another place with --html",
        )
    check_writable(page, "--html")


def _show_operations(plan: Plan) -> None:
    from fhecompile.plan.text import operation_lines

    for line in operation_lines(plan):
        click.echo(line)


def _show(screen: Screen, plan: Plan, summary: PlanSummary, threads: int, explain: bool) -> None:
    from fhecompile.report import tables

    title = f"{plan.program.model_name}, by {plan.program.producer}"
    screen.show(
        tables.rows_table(title, tables.field_rows(plan, summary, threads)),
        tables.layer_table(summary.layers),
    )
    if explain:
        from fhecompile.report.explain import explain_plan

        screen.show(*explain_plan(plan))
    screen.show(tables.openfhe_table(plan))
    for text in tables.cost_warnings(plan):
        screen.warn(text)


def _answer(screen: Screen, plan: Plan, summary: PlanSummary, threads: int, as_text: bool) -> None:
    from fhecompile.plan.summary import describe_plan
    from fhecompile.plan.text import operation_lines
    from fhecompile.report.explain import describe_explained

    described = {**describe_plan(plan, summary, threads), **describe_explained(plan)}
    if as_text:
        described["operations"] = list(operation_lines(plan))
    screen.answer(described)
