"""The numbers of a plan, counted by hand on a small one."""

from __future__ import annotations

import dataclasses
import sys
import types
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fhecompile.ckks.cost_table import MILLISECONDS, CostTable
from fhecompile.ckks.operations import OPERATIONS
from fhecompile.ckks.parameters import Parameters
from fhecompile.plan import Plan
from fhecompile.plan.summary import PlanSummary, describe_plan, openfhe_parameters, summarise
from fhecompile.plan.text import operation_lines
from fhecompile.report.tables import cost_rows, field_rows, layer_rows, show_bytes, show_seconds
from tests.small import compile_small


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return compile_small(tmp_path_factory.mktemp("summary"))


@pytest.fixture(scope="module")
def summary(plan: Plan) -> PlanSummary:
    return summarise(plan)


def test_counts_are_those_of_the_operations(plan: Plan, summary: PlanSummary) -> None:
    operations = plan.program.operations
    turning = ("rotate", "rotate_hoisted", "rotate_extended", "rotate_hoisted_extended")
    assert summary.rotations == sum(info.op in turning for info in operations)
    assert summary.key_switches == sum(OPERATIONS[info.op].key_switches for info in operations)
    assert summary.plaintext_mults == sum(
        len(info.inputs) for info in operations if info.op == "dot_plain"
    ) + sum(info.op == "mul_plain" for info in operations)
    assert summary.rotation_keys == len(plan.program.keys.rotations)
    assert summary.key_bytes == (summary.rotation_keys + 1) * plan.parameters.key_bytes
    assert (summary.multiplicative_depth, summary.bootstraps) == (3, 0)
    assert summary.log_qp == plan.parameters.log_qp


def test_layers_add_up_to_the_whole(summary: PlanSummary) -> None:
    layers = summary.layers
    assert sum(layer.products for layer in layers) == summary.plaintext_mults
    assert sum(layer.rotations for layer in layers) == summary.rotations
    assert sum(layer.key_switches for layer in layers) == summary.key_switches
    assert sum(layer.seconds for layer in layers) == pytest.approx(summary.seconds)


def test_layer_by_layer(plan: Plan, summary: PlanSummary) -> None:
    layers = {layer.layer: layer for layer in summary.layers}
    hidden, active = layers["hidden"], layers["active"]
    assert (hidden.source, hidden.op, hidden.ciphertexts) == ("first", "affine", 1)
    assert hidden.floor == 4 * 3 / (2 * plan.parameters.slots)
    assert hidden.utilisation == hidden.floor / hidden.products
    assert (active.key_switches, active.rotations, active.utilisation) == (1, 0, None)
    assert [layer.level for layer in summary.layers] == sorted(x.level for x in summary.layers)
    linear = [layer for layer in summary.layers if layer.op == "affine"]
    assert summary.slot_utilisation == pytest.approx(
        sum(layer.floor for layer in linear) / sum(layer.products for layer in linear)
    )


def test_plan_bytes_are_those_of_the_file(plan: Plan, summary: PlanSummary, tmp_path: Path) -> None:
    size = plan.save(tmp_path / "a.fheplan")
    assert summary.plan_bytes == size == (tmp_path / "a.fheplan").stat().st_size
    assert summarise(plan, plan_bytes=7).plan_bytes == 7


def test_threads_divide_the_time(plan: Plan, summary: PlanSummary) -> None:
    assert summarise(plan, threads=4).seconds == pytest.approx(summary.seconds / 4)


def test_a_measured_table_changes_the_time_alone(plan: Plan, summary: PlanSummary) -> None:
    doubled = CostTable({step: 2 * t for step, t in MILLISECONDS.items()}, measured=True)
    found = summarise(plan, threads=3, table=doubled)
    assert found.seconds == pytest.approx(2 * summary.seconds / 3)
    assert describe_plan(plan, found, 3)["prediction"]["measured_costs"] is True
    assert dict(cost_rows(plan, found, 3))["evaluate"].endswith(
        "s on 3 threads, predicted from this machine's costs"
    )
    assert dict(cost_rows(plan, summary, 1))["evaluate"].endswith("s on 1 thread, predicted")
    rest = {"seconds": 0.0, "measured": False, "layers": ()}
    assert dataclasses.replace(found, **rest) == dataclasses.replace(summary, **rest)


def test_an_insecure_plan_has_no_security(summary: PlanSummary) -> None:
    assert summary.security_bits == 0


def test_description_is_plain(plan: Plan, summary: PlanSummary) -> None:
    described = describe_plan(plan, summary, 2)
    names = {field.name for field in dataclasses.fields(PlanSummary)} - {"seconds", "measured"}
    assert names <= described.keys()
    assert described["prediction"]["evaluate_seconds"] == summary.seconds


def test_errors_promised_and_predicted(plan: Plan, summary: PlanSummary) -> None:
    """What is of fitted functions, of noise, and what both together may be."""
    given = {"error": 0.2, "output_range": 64.0, "allowed_error": 4.0}
    for fitted, text in (
        (0.0, "1.0e+00 at most on outputs up to 64 (6.0 bits), promised 4.0e+00: 1.0e+00 of noise"),
        (
            3.0,
            "4.0e+00 at most on outputs up to 64 (4.0 bits), promised 4.0e+00: 3.0e+00 of fitted "
            "functions, measured, 1.0e+00 of noise",
        ),
    ):
        predicted = msgspec.structs.replace(plan.program.prediction, fitted_error=fitted, **given)
        program = msgspec.structs.replace(plan.program, prediction=predicted)
        changed = Plan(program, plan.arrays)
        assert dict(cost_rows(changed, summary, 1))["error"] == f"{text}, predicted"
        shown = describe_plan(changed, summary, 1)["prediction"]
        assert shown["largest_error"] == {
            "promised": 4.0,
            "fitted_functions": fitted,
            "noise": 1.0,
        }
        rows = dict(field_rows(changed, summary, 1))
        assert rows["promised largest_error"] == "4"
        assert rows["fitted_functions largest_error"] == f"{fitted:g}"
        assert rows["noise largest_error"] == "1"


def test_text_names_every_operation_once(plan: Plan) -> None:
    lines = [line for line in operation_lines(plan) if line.startswith("%")]
    assert len(lines) == len(plan.program.operations)
    square = next(line for line in lines if "= square" in line)
    assert square.endswith(f"2^{2 * _scale_of_operand(lines, square):.6g}")


def _scale_of_operand(lines: list[str], line: str) -> float:
    operand = int(line.split("%")[2].split(" ")[0])
    return float(lines[operand].rpartition("2^")[2])


def test_rows_of_the_tables(plan: Plan, summary: PlanSummary) -> None:
    rows = dict(field_rows(plan, summary, 2))
    assert rows["ring_dimension"] == "256"
    assert rows["key_bytes"] == f"{summary.key_bytes} ({show_bytes(summary.key_bytes)})"
    hidden = layer_rows(summary.layers)[1]
    assert hidden[:5] == ("hidden", "first", "affine", "1", "1")


@pytest.mark.parametrize(
    ("count", "text"), [(12, "12 B"), (2048, "2 KiB"), (47185920, "45.0 MiB"), (3 << 30, "3.0 GiB")]
)
def test_bytes_as_text(count: int, text: str) -> None:
    assert show_bytes(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.351, "0.35 s"), (45.2, "45 s"), (200, "3 min 20 s")]
)
def test_seconds_as_text(seconds: float, text: str) -> None:
    assert show_seconds(seconds) == text


class Recorder:
    """Stands for OpenFHE's parameter object: keeps what every setter is given."""

    def __init__(self) -> None:
        self.given: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        return lambda value: self.given.__setitem__(name, value)


class Names:
    """Stands for an enum of OpenFHE: every member is its own name."""

    def __getattr__(self, name: str) -> str:
        return name


@pytest.mark.parametrize("insecure", [False, True])
def test_openfhe_parameters_are_what_the_runtime_sets(
    monkeypatch: pytest.MonkeyPatch, insecure: bool
) -> None:
    from runtime.library import make_context

    recorder, fake = Recorder(), types.ModuleType("openfhe")
    fake.__dict__.update(
        CCParamsCKKSRNS=lambda: recorder,
        GenCryptoContext=lambda _: Recorder(),
        DisablePrecomputeCRTTablesAfterDeserializaton=lambda: None,
        **dict.fromkeys(
            ("SecretKeyDist", "SecurityLevel", "ScalingTechnique", "CKKSDataType"), Names()
        ),
        **dict.fromkeys(("PKE", "KEYSWITCH", "LEVELEDSHE", "ADVANCEDSHE")),
    )
    monkeypatch.setitem(sys.modules, "openfhe", fake)
    parameters = Parameters(1 << 14, 3, 59, 60, 2, 128, insecure)
    make_context(parameters)
    assert recorder.given == openfhe_parameters(parameters)
