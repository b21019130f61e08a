"""Why a plan costs what it does: its linear maps, its layouts, who uses them, and its precision."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from rich.console import Group

from fhecompile.plan import Plan
from fhecompile.plan.map_summary import MapSummary, layout_users, summarise_maps
from fhecompile.report.layouts import LEGEND, draw_layout, fill, shape_text
from fhecompile.report.precision import describe_precision, precision_table
from fhecompile.report.tables import titled_table

MAP_HEADS = (
    "layer",
    "operand",
    "packing",
    "layouts",
    "ciphertexts",
    "copies",
    "offsets",
    "baby steps",
    "giant steps",
    "products",
    "floor",
    "utilisation",
)
LAYOUT_HEADS = ("layout", "shape", "filled", "slot bits, highest first", "layers")


def map_rows(maps: Iterable[MapSummary]) -> list[tuple[str, ...]]:
    """The map table's cells."""
    return [
        (
            m.layer,
            m.source,
            m.packing,
            f"{m.source_layout} > {m.target_layout}",
            f"{m.inputs} > {m.outputs}",
            str(m.copies) if m.copies else "",
            str(m.offsets),
            str(m.baby_steps),
            str(m.giant_steps),
            str(m.products),
            f"{m.floor:.1f}",
            f"{100 * m.utilisation:.1f} %" if m.utilisation is not None else "",
        )
        for m in maps
    ]


def layout_rows(plan: Plan) -> list[tuple[str, ...]]:
    """The layout table's cells."""
    return [
        (
            str(number),
            shape_text(layout),
            f"{100 * fill(layout):.0f} %",
            draw_layout(layout),
            "\n".join(users),
        )
        for number, (layout, users) in enumerate(zip(plan.layouts, layout_users(plan), strict=True))
    ]


def explain_plan(plan: Plan) -> tuple[Group, Group, Group]:
    """The tables of linear maps, of layouts and of precision by layer."""
    maps = titled_table(
        "linear maps", MAP_HEADS[:3], MAP_HEADS[3:], rows=map_rows(summarise_maps(plan))
    )
    layouts = titled_table(
        f"layouts ({LEGEND})",
        LAYOUT_HEADS[:2],
        LAYOUT_HEADS[2:3],
        LAYOUT_HEADS[3:],
        layout_rows(plan),
    )
    return maps, layouts, precision_table(plan)


def describe_explained(plan: Plan) -> dict[str, Any]:
    """Linear maps, layouts and precision by layer as plain values for JSON."""
    layouts = [
        {
            "shape": list(layout.shape),
            "ciphertexts": layout.ciphertexts,
            "period": layout.period,
            "spill": layout.spill,
            "filled": fill(layout),
            "picture": draw_layout(layout),
            "layers": users,
        }
        for layout, users in zip(plan.layouts, layout_users(plan), strict=True)
    ]
    return {
        "maps": [asdict(m) for m in summarise_maps(plan)],
        "layouts": layouts,
        "precision": describe_precision(plan),
    }
