"""Functions that are no polynomials, on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from fhecompile.plan import Plan
from tests.cli.conftest import Call
from tests.small import write_model

TOY = ("--ring-dimension", "256", "--insecure-toy")


def prepared(tmp_path: Path, samples: int = 40) -> tuple[Path, str]:
    model = write_model(tmp_path / "relu.onnx", activation="Relu")
    x = np.random.default_rng(0).uniform(-1.0, 1.0, (samples, 1, 4))
    np.save(tmp_path / "x.npy", x)
    return model, str(tmp_path / "x.npy")


def test_explain_lists_functions(call: Call, tmp_path: Path) -> None:
    model, data = prepared(tmp_path)
    done = call(model, *TOY, "--calibrate", data, "--explain")
    lines = done.out.splitlines()
    start = lines.index("functions")
    heads = ["node", "function", "range", "degree", "depth", "error", "change", "of", "outputs"]
    assert lines[start + 1].split() == heads
    row = lines[start + 3].split()
    assert row[:2] == ["activation", "relu"] and row[3] == "to"
    assert int(row[5]) >= 31 and int(row[6]) >= 5
    assert "calibration samples tell little" not in done.err


def test_json(call: Call, tmp_path: Path) -> None:
    model, data = prepared(tmp_path, 10)
    done = call(model, *TOY, "--calibrate", data, "--json", "-q")
    answer = json.loads(done.out)
    (function,) = answer["functions"]
    assert function["source"] == "activation" and function["function"] == "relu"
    assert function["low"] < 0.0 < function["high"]
    assert function["depth"] == (max(function["degrees"]) + 1).bit_length() - 1
    (warning,) = [text for text in answer["warnings"] if "calibration samples" in text]
    assert warning.startswith("10 calibration samples tell little about ranges: ")


def test_options(call: Call, tmp_path: Path) -> None:
    model, data = prepared(tmp_path)
    strict, loose = tmp_path / "strict.fheplan", tmp_path / "loose.fheplan"
    file = tmp_path / "wishes.toml"
    file.write_text('[activation]\nfunction = "minimax"\n')
    given = (*TOY, "--calibrate", data, "--activations", file)
    assert call(model, *given, "-o", strict).code == 0
    assert call(model, *given, "--activation-error", "0.05", "-o", loose).code == 0
    depths = [Plan.load(p).program.prediction.multiplicative_depth for p in (strict, loose)]
    assert depths[1] < depths[0]
    done = call("tune", model, *given, "--precision-bits", "4", "--json", "-q")
    assert [point["reason"] for point in json.loads(done.out)["points"]] == [""]
    file.write_text("[other]\n")
    done = call(model, *given)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(
        "error: no function that is to be fitted is called other [activation-options]\n"
        "  hint: there are: activation"
    )
