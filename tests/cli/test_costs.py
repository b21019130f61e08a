"""Costs measured on this machine: they change what is predicted and nothing that is chosen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fhecompile.ckks.cost_table import MILLISECONDS, CostTable
from runtime.costs import VARIABLE, MachineCosts
from tests.cli.conftest import Call

TOY = ("--ring-dimension", "256", "--insecure-toy")
# Steps cost as much the other way round: choices made by these would differ.
TURNED = dict(zip(MILLISECONDS, reversed(MILLISECONDS.values()), strict=True))


@pytest.fixture
def costs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "costs.json"
    table = CostTable({step: 100 * t for step, t in TURNED.items()}, measured=True)
    path.write_bytes(MachineCosts(table, 1, 1, 0.5, 1 << 16).encode())
    monkeypatch.setenv(VARIABLE, str(path))
    return path


def predicted(text: str) -> tuple[float, bool]:
    prediction = json.loads(text)["prediction"]
    return prediction["evaluate_seconds"], prediction["measured_costs"]


def test_the_plan_is_the_same_and_the_prediction_is_not(
    call: Call, model: Path, costs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = call(model, *TOY, "-o", costs.with_name("a"), "--json")
    shown = call("inspect", costs.with_name("a"), "--json")
    text = call("inspect", costs.with_name("a"))
    monkeypatch.setenv(VARIABLE, "default")
    built_in = call(model, *TOY, "-o", costs.with_name("b"), "--json")
    assert costs.with_name("a").read_bytes() == costs.with_name("b").read_bytes()
    (seconds, is_measured), (default, is_default_measured) = map(
        predicted, (measured.out, built_in.out)
    )
    assert predicted(shown.out) == (seconds, True)
    assert (is_measured, is_default_measured) == (True, False)
    assert seconds > 10 * default
    assert "predicted from this machine's costs" in measured.err
    assert "predicted from this machine's costs" not in built_in.err
    assert "threads, from this machine's costs" in text.out


def test_tuning_predicts_by_them_too(call: Call, model: Path, costs: Path) -> None:
    plan = call(model, *TOY, "-o", costs.with_name("a"), "--json", "-q")
    tuned = call("tune", model, *TOY, "--precision-bits", "8", "--json")
    found = json.loads(tuned.out)
    assert found["measured_costs"] is True and "s, this machine's costs, outputs" in tuned.err
    assert found["points"][0]["cost"]["seconds"] == pytest.approx(predicted(plan.out)[0])


def test_a_corrupt_file_is_ignored_with_one_warning(call: Call, plan: Path, costs: Path) -> None:
    costs.write_text("{")
    done = call("inspect", plan, "--json")
    assert done.code == 0 and predicted(done.out)[1] is False
    assert done.err == (
        f"warning: {costs}: ignored, the built-in costs are used: it is no file of measured costs "
        "[costs-ignored]\n"
        f"  hint: make a new one with: python -m runtime.calibrate --output {costs}\n"
    )
