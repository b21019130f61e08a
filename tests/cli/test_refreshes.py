"""Refreshes on the command line: --level-budget and --no-bootstrap."""

from __future__ import annotations

from pathlib import Path

from fhecompile.plan import Plan
from models.zoo.catalogue import shipped_path
from tests.cli.conftest import Call

TOY = ("--ring-dimension", "2048", "--insecure-toy")


def test_a_budget_makes_refreshes(call: Call, tmp_path: Path) -> None:
    model, out = shipped_path("digits_relu_mlp"), tmp_path / "out.fheplan"
    data = model.parent / "digits_calibration.npz"
    given = (model, "--calibrate", data, "--precision-bits", "5", *TOY, "-o", out)
    done = call(*given, "--level-budget", "5")
    assert done.code == 0, done.err
    assert Plan.load(out).parameters.bootstrap is not None
    done = call(*given)
    assert done.code == 0, done.err
    assert Plan.load(out).parameters.bootstrap is None


def test_a_budget_that_is_too_small(call: Call, model: Path) -> None:
    assert call(model, *TOY, "--level-budget", "1") == (
        2,
        "",
        "error: first: 2 primes are needed behind x up to the next value that can be refreshed, "
        "1 are there: first takes 1 [too-deep]\n"
        "  hint: allow 2 with --level-budget 2, lower --precision-bits, or use activations of a "
        "lower degree\n",
    )


def test_options_that_do_not_fit(call: Call, model: Path) -> None:
    assert call(model, "--level-budget", "61") == (
        2,
        "",
        "error: level_budget is 61, allowed are 0 to 60 [option-value]\n",
    )
    assert call(model, "--level-budget", "3", "--no-bootstrap") == (
        2,
        "",
        "error: level_budget is given without refreshes, for which it is meant [option-value]\n",
    )
    assert call(model, "--level-budget", "few").code == 2


def test_without_refreshes(call: Call, model: Path) -> None:
    """What is shallow is the same plan; what is too deep says so."""
    assert call(model, *TOY, "--no-bootstrap").code == 0
    done = call(model, "--ring-dimension", "1024", "--no-bootstrap")
    assert done.code == 2 and "[too-deep]" in done.err
