"""The timeline of a run as Chrome's trace-event JSON, which chrome://tracing and Perfetto open.

Every operation is a complete event (`"ph": "X"`): a start `ts` and a duration `dur` in
microseconds, on a row of its image (`pid`) and thread (`tid`). What is encoded ahead is for all
images, and has rows of its own. Format: "Trace Event Format", the Chromium project.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from fhecompile.plan import Plan
from fhecompile.plan.files import write_atomically
from runtime.trace import KINDS, Execution

SHARED = "all images"


def timeline(plan: Plan, executions: Sequence[Execution]) -> dict[str, Any]:
    """The trace of executions that followed one another, as an object to write as JSON.

    Args:
        plan: the plan, which has the names of the layers.
        executions: those of one run, each of the images after those before it.
    """
    events = list(_operations(plan, executions))
    rows = sorted({(event["pid"], event["tid"]) for event in events})
    count = sum(execution.images for execution in executions)
    names = []
    for process in sorted({process for process, _ in rows}):
        text = SHARED if process == count else f"image {process}"
        names.append(_name("process_name", process, 0, text))
    names += [_name("thread_name", process, thread, f"thread {thread}") for process, thread in rows]
    return {"traceEvents": names + events, "displayTimeUnit": "ms"}


def write_timeline(path: Path, plan: Plan, executions: Sequence[Execution]) -> None:
    """Writes a timeline, all or nothing."""
    write_atomically(path, msgspec.json.encode(timeline(plan, executions)), "--trace")


def _operations(plan: Plan, executions: Sequence[Execution]) -> Iterator[dict[str, Any]]:
    layers = plan.program.layers
    count, first = sum(execution.images for execution in executions), 0
    for execution in executions:
        offset = execution.started - executions[0].started
        for entry in execution.trace:
            yield {
                "name": entry.op,
                "cat": KINDS.get(entry.op, "other"),
                "ph": "X",
                "ts": round(1e6 * (offset + entry.start), 3),
                "dur": round(1e6 * (entry.end - entry.start), 3),
                "pid": count if entry.image is None else first + entry.image,
                "tid": entry.thread,
                "args": {"layer": layers[entry.layer].name, "level": entry.level},
            }
        first += execution.images


def _name(kind: str, process: int, thread: int, text: str) -> dict[str, Any]:
    return {"name": kind, "ph": "M", "pid": process, "tid": thread, "args": {"name": text}}
