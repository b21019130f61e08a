"""`fhecompile tune --labels`: what is measured on what, and its errors."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from fhecompile.frontend import import_model
from fhecompile.ir.evaluate import evaluate
from passes.fit_functions import FitFunctions
from tests.cli.conftest import Call
from tests.small import write_model
from tests.support import Network

TOY = ("--ring-dimension", "256", "--insecure-toy")
ERRORS = ("--activation-error", "0.05,0.3,0.3")


@pytest.fixture
def tanh(tmp_path: Path) -> Path:
    """tanh between two linear layers, two classes; files of samples and of other ones, labelled."""
    path = write_model(tmp_path / "tanh.onnx", activation="Tanh")
    corners = np.array(list(itertools.product([-1.0, 1.0], repeat=4)))[:, None]
    others = np.random.default_rng(1).uniform(-1, 1, (40, 1, 4))
    for name, x in (("seen", corners), ("other", others)):
        logits = evaluate(import_model(path).graph, {"x": x})["y"][:, 0]
        label = logits.argmax(axis=1)
        label[:4] ^= 1  # the model is wrong about four
        np.savez(tmp_path / f"{name}.npz", x=x, label=label)
        np.save(tmp_path / f"{name}.npy", label)
    return path


def data(model: Path, name: str) -> str:
    return str(model.with_name(name))


def test_points(call: Call, tanh: Path) -> None:
    seen, other = data(tanh, "seen.npz"), data(tanh, "other.npz")
    options = ("--calibrate", seen, "--test", other, "--labels", f"{other}:label", *ERRORS)
    done = call("tune", tanh, *TOY, *options, "--max-keys", "2,9", "--json", "-q")
    found = json.loads(done.out)
    assert found["tested"] == {
        "data": other,
        "samples": 40,
        "calibration_samples": 0,
        "labels": True,
        "model_accuracy": 0.9,
        "standard_error": pytest.approx((0.9 * 0.1 / 40) ** 0.5),
    }
    points = found["points"]
    assert [(p["activation_error"], p["max_keys"]) for p in points] == [
        *((0.3, 2), (0.3, 9), (0.05, 2), (0.05, 9)),
    ]
    coarse, _, fine, _ = points
    assert coarse["depth"] < fine["depth"]
    assert 0 < fine["accuracy"]["change"] < coarse["accuracy"]["change"]
    for p in points:
        kept = p["accuracy"]
        assert p["reason"] == "" and p["cost"]["seconds"] > 0
        (function,) = p["functions"]
        assert (function["source"], function["function"]) == ("activation", "tanh")
        # Of the one function alone: here that is all there is, on the calibration data.
        assert 0 < function["change"] <= p["activation_error"] * p["cost"]["output_range"]
        # An error of 0.3 turns the class of a few samples, those wrong before as well as others.
        assert abs(kept["accuracy"] - 0.9) <= 1 - kept["agreement"] + 1e-9 < 0.15
        assert kept["overflows"] == 0
    assert points[0]["accuracy"] == points[1]["accuracy"]


def test_polynomials_are_fitted_once_for_all_keys(
    call: Call, tanh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, fit = [], FitFunctions.run
    monkeypatch.setattr(FitFunctions, "run", lambda *a: (runs.append(1), fit(*a))[1])
    assert call("tune", tanh, *TOY, *ERRORS, "--max-keys", "1,2,9", "-q").code == 0
    assert len(runs) == 2


def test_text_and_picture(call: Call, tanh: Path) -> None:
    seen, plot = data(tanh, "seen.npz"), data(tanh, "a.svg")
    options = ("--calibrate", seen, "--labels", data(tanh, "seen.npy"), *ERRORS, "--plot", plot)
    done = call("tune", tanh, *TOY, *options)
    lines = done.out.splitlines()
    assert done.code == 0
    assert done.err.startswith("warning: 16 calibration samples tell little about ranges: ")
    assert done.err.count("\n") == 1
    assert lines[0].startswith(f"{tanh}, ")
    assert lines[0].endswith("(* Pareto front of accuracy and depth)")
    assert lines[1] == (
        "accuracy on 16 samples of the calibration data, which the polynomials are fitted for; "
        "the model: 75.0 %, standard error 10.8 %"
    )
    assert lines[2].split()[:3] == ["activation", "error", "accuracy"]
    assert [line.split()[0] for line in lines[4:6]] == ["0.3", "0.05"]
    assert lines[-1] == f"written: {plot}"
    root = ElementTree.parse(plot).getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"


def test_without_labels_there_is_agreement(call: Call, tanh: Path) -> None:
    options = ("--calibrate", data(tanh, "seen.npz"), "--test", data(tanh, "seen.npz"))
    found = json.loads(call("tune", tanh, *TOY, *options, *ERRORS, "--json", "-q").out)
    assert found["tested"]["calibration_samples"] == found["tested"]["samples"] == 16
    assert found["tested"]["model_accuracy"] is None and not found["tested"]["labels"]
    assert all(p["accuracy"]["accuracy"] is None for p in found["points"])
    assert all(p["accuracy"]["agreement"] > 0.8 for p in found["points"])


def test_a_batch_measures_the_same(call: Call, tanh: Path) -> None:
    other = data(tanh, "other.npz")
    options = ("--calibrate", data(tanh, "seen.npz"), "--test", other)
    asked = (*options, "--labels", f"{other}:label", "--activation-error", "0.3", "--json", "-q")
    one, many = (
        json.loads(call("tune", tanh, *TOY, *asked, "--batch", str(n)).out) for n in (1, 3)
    )
    assert many["tested"] == one["tested"]
    assert many["points"][0]["accuracy"] == pytest.approx(one["points"][0]["accuracy"])


def test_what_cannot_be_fitted_is_a_line(call: Call, tanh: Path) -> None:
    options = ("--calibrate", data(tanh, "seen.npz"), "--passes", "+fit_functions{degree=2}")
    done = call("tune", tanh, *TOY, *options, "--activation-error", "0.001", "--json", "-q")
    (point,) = json.loads(done.out)["points"]
    assert done.code == 0 and point["accuracy"] is point["depth"] is point["cost"] is None
    assert not point["pareto"] and "for tanh on " in point["reason"]


def test_what_no_ring_takes_still_has_an_accuracy(call: Call, tanh: Path) -> None:
    options = ("--ring-dimension", "1024", "--activation-error", "0.05", "--json", "-q")
    (point,) = json.loads(call("tune", tanh, *options).out)["points"]
    assert point["reason"].startswith("no ring dimension is secure at 128 bits ")
    assert point["depth"] >= 2 and point["accuracy"]["agreement"] > 0.8


def test_polynomial_networks_have_one_point(call: Call, model: Path) -> None:
    done = call("tune", model, *TOY, *ERRORS, "--json", "-q")
    (point,) = json.loads(done.out)["points"]
    assert point["activation_error"] is None and point["accuracy"]["agreement"] == 1.0
    assert "every activation of this network is a polynomial already, and exact" in done.err


# -- errors ----------------------------------------------------------------------------------------


def test_wrong_options(call: Call, tanh: Path) -> None:
    label, seen = data(tanh, "seen.npy"), data(tanh, "seen.npz")
    both, other = ("--calibrate", seen, "--labels", label), data(tanh, "other.npz")
    for options, text in [
        (
            ("--labels", label),
            "error: there are labels, but no samples they belong to [labels-mismatch]\n"
            "  hint: give the samples with --calibrate, or others with --test\n",
        ),
        (
            (*both, "--test", other),
            f"error: {label}: the labels have shape (16,), expected (40,): one per sample "
            "[labels-mismatch]\n  hint: labels belong to the samples of --test, or of --calibrate "
            "where there are none\n",
        ),
        (
            (*both, "--match", "cosine"),
            "error: accuracy is of classes, and --match cosine gives none [labels-mismatch]\n"
            "  hint: leave --match out, or --test and --labels\n",
        ),
        (("--test", "no.npz"), "error: no.npz: there is no such file [no-such-file]\n"),
        (
            ("--plot", "a.png"),
            "error: a.png: the picture is an SVG file [cannot-write]\n"
            "  hint: give --plot a name that ends with .svg\n",
        ),
        (("--plot", "no/a.svg"), "error: no/a.svg: cannot write there (there is no folder no)"),
        (
            ("--activation-error", "0.1,0"),
            "error: activation_error is 0, allowed are numbers above 0 to 1 [option-value]\n",
        ),
        (("--activation-error", "0.1,x"), "'0.1,x' is no list like 0.2,0.1,0.05\n"),
    ]:
        done = call("tune", tanh, *TOY, *options)
        assert (done.code, done.out) == (2, ""), options
        assert text in done.err


def test_outputs_that_are_no_classes(call: Call, tmp_path: Path) -> None:
    net = Network(x=(2, 3))
    outputs = net.op("Tanh", "x", name="map"), net.op("ReduceSum", "x", name="sum", keepdims=0)
    path = tmp_path / "two.onnx"
    path.write_bytes(net.model(*outputs))
    np.savez(tmp_path / "x.npz", x=np.full((5, 2, 3), 0.5), label=np.zeros(5, int))
    options = ("--calibrate", tmp_path / "x.npz", "--labels", f"{tmp_path}/x.npz:label")
    assert call("tune", path, *TOY, *options) == (
        2,
        "",
        "error: labels need one output with a number per class, 1 x classes; the outputs are: "
        "map 2 x 3, sum a scalar [labels-mismatch]\n"
        "  hint: leave --labels out, or give a network that classifies\n",
    )
