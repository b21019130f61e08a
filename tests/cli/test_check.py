"""`fhecompile check`: budgets kept, budgets broken, and wrong budget files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.cli.conftest import Call

ROOT = Path(__file__).resolve().parents[2]


def write_budget(folder: Path, text: str) -> Path:
    path = folder / "budgets.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_kept(call: Call, model: Path) -> None:
    np.savez(model.parent / "data.npz", rows=np.random.default_rng(0).uniform(-1, 1, (8, 1, 4)))
    budget = write_budget(
        model.parent,
        '[small]\ncalibration = "data.npz:rows"\nmultiplicative_depth = 4\nlevels = 3\n'
        "bootstraps = 0\nrotations = 50\nrotation_keys = 20\nkey_mib = 500\nplan_mib = 1.5\n",
    )
    done = call("check", model, "--budget", budget, "--json", "-q")
    found = json.loads(done.out)
    assert (done.code, done.err, found["kept"]) == (0, "", True)
    limits = {line["name"]: line for line in found["models"][0]["limits"]}
    assert limits["multiplicative_depth"] == {
        "name": "multiplicative_depth",
        "value": 3,
        "budget": 4,
        "slack": 1,
        "kept": True,
    }
    assert list(limits)[-1] == "plan_mib" and len(limits) == 7
    assert not model.with_suffix(".fheplan").exists()


def test_a_chosen_output(call: Call, model: Path) -> None:
    """The value before the last layer has a level less."""
    source = onnx.load(model)
    value = next(n for n in source.graph.node if n.name == "last").input[0]
    budget = write_budget(
        model.parent, f'[small]\noutputs = ["{value}"]\nmultiplicative_depth = 2\n'
    )
    assert call("check", model, "--budget", budget).code == 0


def test_broken_shows_the_deepest_path(call: Call, model: Path) -> None:
    budget = write_budget(model.parent, "[small]\nmultiplicative_depth = 2\nlevels = 9\n")
    done = call("check", model, "--budget", budget)
    assert done.code == 1
    assert done.err == f"{model}: over budget: multiplicative_depth\n"
    lines = [line.split() for line in done.out.splitlines()]
    assert ["multiplicative_depth", "3", "2", "-1", "BROKEN"] in lines
    start = lines.index(["deepest", "path"])
    assert [line for line in lines[start + 3 :] if line] == [
        ["1", "hidden", "affine", "first"],
        ["2", "active", "poly", "activation"],
        ["3", "y", "affine", "last"],
    ]


def test_shipped_models_keep_their_budgets(call: Call) -> None:
    models = ROOT / "models"
    done = call(
        "check",
        models / "digits_mlp.onnx",
        models / "digits_cnn.onnx",
        *("--budget", models / "budgets.toml", "--json"),
    )
    assert done.code == 0, done.err
    for entry in json.loads(done.out)["models"]:
        assert {line["name"] for line in entry["limits"]} >= {"multiplicative_depth", "levels"}


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("[other]\nlevels = 3\n", "there is no budget for small [no-budget]\n  hint: add a table "),
        ("[small]\nlevel = 3\n", "[small] has the unknown key level [budget-file]\n  hint: keys a"),
        ('[small]\nlevels = "3"\n', "[small] levels is not a number [budget-file]\n"),
        ("[small]\nlevels = true\n", "[small] levels is not a number [budget-file]\n"),
        ("[small]\ncalibration = 3\n", "[small] calibration is not a text [budget-file]\n"),
        ('[small]\noutputs = "y"\n', "[small] outputs is not a list of texts [budget-file]\n"),
        ("[small]\noutputs = [1]\n", "[small] outputs is not a list of texts [budget-file]\n"),
        (
            "small = 3\n",
            'small is not a table [budget-file]\n  hint: write ["small"], and its keys',
        ),
        ("[small\n", "is not TOML: "),
    ],
)
def test_wrong_budget_files(call: Call, model: Path, text: str, error: str) -> None:
    budget = write_budget(model.parent, text)
    done = call("check", model, "--budget", budget)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"error: {budget}: {error}")


def test_missing_budget_file(call: Call, model: Path) -> None:
    path = model.parent / "none.toml"
    done = call("check", model, "--budget", path)
    assert done.err == (
        f"error: {path}: cannot be read (No such file or directory) [budget-file]\n"
    )


def test_missing_calibration(call: Call, model: Path) -> None:
    budget = write_budget(model.parent, '[small]\ncalibration = "none.npz"\n')
    done = call("check", model, "--budget", budget)
    assert done.code == 2
    assert done.err.startswith(f"error: {model.parent / 'none.npz'}: there is no such file [no-su")
