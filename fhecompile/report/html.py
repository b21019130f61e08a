"""A plan's report as one HTML file: no scripts, nothing loaded, equal plans give equal bytes.

A layout is drawn as a row of cells, one for each bit of the slot number (`report.layouts`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from fhecompile.ckks.layout import Layout
from fhecompile.plan import Plan
from fhecompile.plan.map_summary import layout_users, summarise_maps
from fhecompile.plan.summary import PlanSummary
from fhecompile.report import tables
from fhecompile.report.explain import MAP_HEADS, map_rows
from fhecompile.report.layouts import (
    AXIS_WORDS,
    PLACES,
    Cell,
    axis_names,
    digit_text,
    fill,
    place_cells,
    shape_text,
    slot_cells,
)

COLOURS = {
    "p": "#f2b8c6",
    "n": "#d9d9d9",
    "c": "#f6cf8b",
    "h": "#a9d3f5",
    "w": "#b5dfae",
    "l": "#a9d3f5",
    "f": "#d5c3f0",
    "a": "#f6cf8b",
}
STYLE = """
body { font: 14px/1.45 system-ui, sans-serif; color: #222; background: #fff; margin: 2em; }
h1 { font-size: 1.4em; } h2 { font-size: 1.1em; margin-top: 2em; }
table { border-collapse: collapse; }
th, td { padding: 2px 12px 2px 0; text-align: left; vertical-align: top; }
thead th { border-bottom: 1px solid #999; }
tbody tr:hover { background: #f3f3f3; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; }
.warning { color: #a40000; font-weight: bold; }
.layout { margin: 1em 0; }
.bits { display: inline-flex; margin: 4px 16px 4px 0; align-items: flex-end; }
.bits > span { width: 30px; text-align: center; }
.bits .place { width: auto; padding-right: 8px; line-height: 26px; }
.bits small { display: block; color: #777; font-size: 10px; }
.bits b { display: block; height: 26px; line-height: 26px; border: 1px solid #fff;
  font-weight: normal; color: #222; }
.replica { background: #eee; } .hole { background: #fff; outline: 1px dashed #bbb;
  outline-offset: -2px; } .spill { background: repeating-linear-gradient(45deg, #ddd 0 4px,
  #fff 4px 8px); }
.layers { color: #555; }
"""


def html_report(plan: Plan, summary: PlanSummary, threads: int) -> str:
    """The whole report; the arguments are those of the tables for the terminal."""
    title = f"{plan.program.model_name}, by {plan.program.producer}"
    colours = "".join(f".axis-{a} {{ background: {c}; }}\n" for a, c in COLOURS.items())
    layers = tables.layer_rows(summary.layers)
    maps = map_rows(summarise_maps(plan))
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width">',
        f"<title>{escape(title)}</title>",
        f"<style>{STYLE}{colours}</style></head><body>",
        f"<h1>{escape(title)}</h1>",
        *(f'<p class="warning">{escape(text)}</p>' for text in tables.cost_warnings(plan)),
        _table((), tables.cost_rows(plan, summary, threads), 2),
        "<h2>Layers</h2>",
        _table(tables.LAYER_HEADS, layers, 3),
        "<h2>Linear maps</h2>",
        _table(MAP_HEADS, maps, 3),
        "<h2>Layouts</h2>",
        _legend(plan.layouts),
        *(
            layout_block(number, layout, users)
            for number, (layout, users) in enumerate(
                zip(plan.layouts, layout_users(plan), strict=True)
            )
        ),
        "<h2>All numbers</h2>",
        _table((), tables.field_rows(plan, summary, threads), 2),
        "<h2>OpenFHE parameters</h2>",
        _table(("setter", "value"), tables.openfhe_rows(plan), 2),
        "</body></html>",
    ]
    return "\n".join(parts) + "\n"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], texts: int) -> str:
    """A table whose columns hold numbers from column `texts` on."""

    def cells(tag: str, row: Sequence[str]) -> str:
        found = []
        for k, text in enumerate(row):
            kind = ' class="number"' if k >= texts else ""
            found.append(f"<{tag}{kind}>{escape(text)}</{tag}>")
        return f"<tr>{''.join(found)}</tr>"

    head = f"<thead>{cells('th', heads)}</thead>" if heads else ""
    body = "\n".join(cells("td", row) for row in rows)
    return f'<div class="scroll"><table>{head}<tbody>\n{body}\n</tbody></table></div>'


def _legend(layouts: Iterable[Layout]) -> str:
    """The marks of holes, replicas and spills, and the axes that there are."""
    axes = dict.fromkeys(name for layout in layouts for name in axis_names(len(layout.shape)))
    entries = [(Cell("axis", a, 0), f"bit 0 of the {AXIS_WORDS.get(a, 'axis')}") for a in axes]
    entries += [
        (Cell("replica"), "replicas"),
        (Cell("hole"), "hole, zero"),
        (Cell("spill"), "spill, no meaning"),
    ]
    cells = "".join(
        f'<span class="bits"><span>{_cell(cell)}</span>'
        f'<span class="place">&nbsp;{escape(text)}</span></span>'
        for cell, text in entries
    )
    return f"<p>Bits of the slot number, the highest first.</p><div>{cells}</div>"


def layout_block(number: int, layout: Layout, users: Iterable[str]) -> str:
    """A layout's shape, its rows of cells, and the layers that use it."""
    slots = slot_cells(layout)
    rows = []
    if slots is None:
        spill = f", spill *{layout.spill}" if layout.spill else ""
        text = f"{digit_text(layout, 'slot')}, period {layout.period}{spill}"
        rows.append(f"<code>{escape(text)}</code>")
    else:
        rows.append(_bits("slot", slots))
    for place, title in PLACES:
        cells = place_cells(layout, place)
        if cells is None:
            rows.append(f"{title} <code>{escape(digit_text(layout, place))}</code>")
        elif cells:
            rows.append(_bits(title, cells))
    return (
        f'<div class="layout"><strong>{number}</strong> {escape(shape_text(layout))}, '
        f"{100 * fill(layout):.0f} % filled<br>\n{''.join(rows)}\n"
        f'<div class="layers">{escape(", ".join(users))}</div></div>'
    )


def _bits(title: str, cells: Sequence[Cell]) -> str:
    """Cells in a row, with the number of the position's bit above each."""
    numbered = "".join(
        f"<span><small>{len(cells) - 1 - k}</small>{_cell(cell)}</span>"
        for k, cell in enumerate(cells)
    )
    return f'<span class="bits"><span class="place">{title}</span>{numbered}</span>'


def _cell(cell: Cell) -> str:
    kind = f"axis-{cell.axis[0]}" if cell.kind == "axis" else cell.kind
    return f'<b class="{kind}">{cell}</b>'
