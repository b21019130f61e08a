"""`--trace`: Chrome's trace-event format, and that it is written whatever happens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fhecompile.plan import Plan
from runtime.timeline import timeline
from runtime.trace import KINDS, Execution, TraceEntry
from tests.runtime.conftest import Call, Files
from tests.support import convolution_plan

PLAN = convolution_plan()


def events_of(trace: dict[str, Any], phase: str) -> list[dict[str, Any]]:
    """The events of a phase, all of which have the fields that the format requires."""
    assert set(trace) == {"traceEvents", "displayTimeUnit"}
    for event in trace["traceEvents"]:
        assert isinstance(event["name"], str) and event["ph"] in ("X", "M")
        assert isinstance(event["pid"], int) and isinstance(event["tid"], int)
        if event["ph"] == "X":
            assert event["ts"] >= 0 and event["dur"] >= 0 and isinstance(event["cat"], str)
    return [event for event in trace["traceEvents"] if event["ph"] == phase]


def test_rows_times_and_names() -> None:
    first = Execution(2, 2, [TraceEntry("square", 0, 3, 1.0, 1.5, 1, 0)], 2.0, started=10.0)
    first.trace.append(TraceEntry("encode", 1, 2, 0.25, 0.5, 0, None))
    second = Execution(2, 1, [TraceEntry("rescale", 1, 4, 0.5, 0.625, 0)], 1.0, started=13.0)
    trace = timeline(PLAN, [first, second])
    layers = [layer.name for layer in PLAN.program.layers]
    common = {"ph": "X"}
    assert events_of(trace, "X") == [
        {
            **common,
            "name": "square",
            "cat": "square",
            "ts": 1e6,
            "dur": 5e5,
            "pid": 0,
            "tid": 1,
            "args": {"layer": layers[0], "level": 3},
        },
        {
            **common,
            "name": "encode",
            "cat": "encode",
            "ts": 250e3,
            "dur": 250e3,
            "pid": 3,
            "tid": 0,
            "args": {"layer": layers[1], "level": 2},
        },
        {
            **common,
            "name": "rescale",
            "cat": "other",
            "ts": 3.5e6,
            "dur": 125e3,
            "pid": 2,
            "tid": 0,
            "args": {"layer": layers[1], "level": 4},
        },
    ]
    names = [(e["name"], e["pid"], e["tid"], e["args"]["name"]) for e in events_of(trace, "M")]
    assert names == [
        ("process_name", 0, 0, "image 0"),
        ("process_name", 2, 0, "image 2"),
        ("process_name", 3, 0, "all images"),
        ("thread_name", 0, 1, "thread 1"),
        ("thread_name", 2, 0, "thread 0"),
        ("thread_name", 3, 0, "thread 0"),
    ]


def test_of_nothing() -> None:
    assert timeline(PLAN, []) == {"traceEvents": [], "displayTimeUnit": "ms"}


def test_of_a_run(call: Call, made: Files, tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    command = (made.plan, "--input", made.inputs, "--mode", "clear", "--trace", path)
    assert call(*command).code == 0
    events = events_of(json.loads(path.read_text()), "X")
    program = Plan.load(made.plan).program
    assert sorted(e["name"] for e in events) == sorted(o.op for o in program.operations)
    assert all(e["cat"] == KINDS.get(e["name"], "other") for e in events)
    assert {e["args"]["layer"] for e in events} <= {layer.name for layer in program.layers}


def test_of_a_run_that_fails(
    call: Call, made: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("runtime.backends.clear.ClearBackend.square", fail)
    path = tmp_path / "trace.json"
    done = call(
        *(made.plan, "--input", made.inputs, "--mode", "clear", "--trace", path, "--threads", 1)
    )
    assert done.code == 130
    names = [e["name"] for e in events_of(json.loads(path.read_text()), "X")]
    assert "dot_plain" in names and "square" not in names and "output" not in names


def test_where_it_cannot_be_written(
    call: Call, made: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "none" / "trace.json"
    command = (made.plan, "--input", made.inputs, "--mode", "clear", "--trace")
    with monkeypatch.context() as patch:
        patch.setattr("runtime.run._evaluate", lambda *_: pytest.fail("evaluated"))
        done = call(*command, path)
    assert (done.code, done.out) == (2, "")
    assert done.err == (
        f"error: {path}: cannot write there (there is no folder {path.parent}) [cannot-write]\n"
        "  hint: choose another place with --trace\n"
    )

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    done = call(*command, tmp_path / "trace.json")
    assert done.code == 0 and done.out.startswith("y: 5 x 2: ")  # the outputs are not lost
    assert done.err.endswith(
        f"warning: {tmp_path / 'trace.json'}: cannot write there (No space left on device) "
        "[cannot-write]\n  hint: choose another place with --trace\n"
    )
