"""`fhecompile tune`: what is compiled once, what a point says, and its errors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fhecompile.ir.program import PassResult, Program
from fhecompile.plan import Plan
from fhecompile.plan.summary import summarise
from passes import select_parameters
from passes.fit_functions import FitFunctions
from passes.fuse_polynomials import FusePolynomials
from tests.cli.conftest import Call
from tests.small import write_model

TOY = ("--ring-dimension", "256", "--insecure-toy")


def test_points_are_those_of_single_compilations(call: Call, model: Path, tmp_path: Path) -> None:
    asked = ("--precision-bits", "24,8", "--max-keys", "2,1")
    done = call("tune", model, *TOY, *asked, "--json", "-q")
    found = json.loads(done.out)
    points = {(p["precision_bits"], p["max_keys"]): p for p in found["points"]}
    assert list(points) == [(8.0, 1), (8.0, 2), (24.0, 1), (24.0, 2)]
    assert not model.with_suffix(".fheplan").exists()
    for (bits, keys), point in points.items():
        assert point["reason"] == ""
        path = tmp_path / "one.fheplan"
        options = ("--precision-bits", str(bits), "--max-keys", str(keys), "-o", path)
        assert call(model, *TOY, *options, "-q").code == 0
        plan = Plan.load(path)
        summary, cost = summarise(plan, 0, found["threads"]), point["cost"]
        for name in ("levels", "digits", "ring_dimension", "rotation_keys", "key_bytes"):
            assert cost[name] == getattr(summary, name), name
        assert cost["seconds"] == pytest.approx(summary.seconds)
        assert cost["peak_bytes"] == plan.program.prediction.peak_bytes
        assert cost["error"] == plan.program.prediction.largest_error


def test_the_network_is_prepared_once(
    call: Call, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = []

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            runs.append(name)
            return function(*arguments)

        return run

    for module, name in ((FusePolynomials, "run"), (select_parameters, "predict_error")):
        monkeypatch.setattr(module, name, counted(name, getattr(module, name)))
    assert call("tune", model, *TOY, "--precision-bits", "4,8,12").code == 0
    assert runs == ["run", "predict_error"]


def test_functions_are_fitted_for_every_precision(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted, fit = [], FitFunctions.run

    def counted(self: FitFunctions, program: Program) -> PassResult:
        result = fit(self, program)
        fitted.append(result.remarks[0].split(" by ")[1].split(",")[0])
        return result

    monkeypatch.setattr(FitFunctions, "run", counted)
    model = write_model(tmp_path / "tanh.onnx", activation="Tanh")
    options = ("--passes", "+fit_functions{degree=15}", "--precision-bits", "2,12,40")
    done = call("tune", model, *TOY, *options, "--json", "-q")
    points = json.loads(done.out)["points"]
    assert fitted == ["degree 2", "degree 15"]
    assert points[0]["cost"]["error"] > 100 * points[1]["cost"]["error"]
    assert points[2]["reason"].startswith("with a polynomial of degree 15 for tanh on ")


def test_what_cannot_be_reached_is_a_line(call: Call, model: Path) -> None:
    done = call("tune", model, "--precision-bits", "8,40", "--max-keys", "0,64")
    lines = [line.split() for line in done.out.splitlines()]
    assert done.code == 0
    assert lines[0][0] == f"{model}," and lines[0][-3:] == ["(*", "Pareto", "front)"]
    rows = {tuple(line[:2]): line[2:] for line in lines[3:] if line}
    assert " ".join(rows["8", "0"]).startswith("0 rotation keys are too few, this network needs ")
    assert rows["8", "64"][-1] == "*"
    assert len(rows) == 4
    assert "no calibration data was given" in done.err


def test_no_secure_ring_is_a_line(call: Call, model: Path) -> None:
    done = call("tune", model, "--ring-dimension", "1024", "--precision-bits", "8", "--json", "-q")
    (point,) = json.loads(done.out)["points"]
    assert done.code == 0 and point["cost"] is None and not point["pareto"]
    assert point["reason"].startswith("no ring dimension is secure at 128 bits ")


def test_too_much_memory_is_not_on_the_front(call: Call, model: Path) -> None:
    done = call("tune", model, *TOY, "--precision-bits", "8", "--max-memory", "100M", "--json")
    (point,) = json.loads(done.out)["points"]
    assert (point["reason"], point["pareto"]) == ("takes more than --max-memory", False)
    assert point["cost"]["peak_bytes"] > 100 << 20


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--precision-bits", "8,x"], "'--precision-bits': '8,x' is no list like 8,12,16\n"),
        (["--precision-bits", ""], "'--precision-bits': '' is no list like 8,12,16\n"),
        (["--max-keys", "3.5"], "'--max-keys': '3.5' is no list like 32,48,64\n"),
        (
            ["--precision-bits", "8,60"],
            "precision_bits is 60, allowed are 1 to 40 [option-value]\n",
        ),
        (
            ["--precision-bits", "nan"],
            "precision_bits is nan, allowed are 1 to 40 [option-value]\n",
        ),
        (["--max-keys", "4,-1"], "max_keys is -1, allowed are 0 and more [option-value]\n"),
        (["--calibrate", "no.npz"], "error: no.npz: there is no such file [no-such-file]\n"),
    ],
)
def test_wrong_options(call: Call, model: Path, arguments: list[str], text: str) -> None:
    done = call("tune", model, *arguments)
    assert (done.code, done.out) == (2, "")
    assert text in done.err


def test_missing_model(call: Call, tmp_path: Path) -> None:
    path = tmp_path / "none.onnx"
    assert call("tune", path).err == (
        f"error: {path}: there is no such file [no-such-file]\n"
        "  hint: give the path of an ONNX model\n"
    )
