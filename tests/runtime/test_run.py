"""`python -m runtime.run`: results, texts and exit codes."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from fhecompile.plan import Plan
from tests.runtime.conftest import Call, Files

ROOT = Path(__file__).resolve().parents[2]
CLEAR = ("--mode", "clear")

# -- results ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "error"), [("clear", 1e-6), ("simulate", 0.01)])
def test_numbers_and_reference(call: Call, made: Files, mode: str, error: float) -> None:
    done = call(
        made.plan, "--input", made.inputs, "--mode", mode, "--reference", made.model, "--json"
    )
    found = json.loads(done.out)
    assert done.code == 0
    assert found["mode"] == mode and found["samples"] == 5
    assert found["seconds"].keys() == {"keygen", "encrypt", "evaluate", "decrypt", "total"}
    assert found["seconds"]["total"] >= found["seconds"]["evaluate"] > 0
    assert found["peak_rss_bytes"] > 1 << 20
    assert found["max_abs_error"] < error and found["cosine"] > 0.999
    assert found["outputs"]["y"]["shape"] == [5, 2] and len(found["outputs"]["y"]["values"]) == 10
    assert {"dot_plain", "square"} <= found["seconds_by_operation"].keys()
    assert "max error" in done.err and "y: 5 x 2: " in done.err


def test_text_on_stdout(call: Call, made: Files) -> None:
    done = call(made.plan, "--input", made.inputs, "--samples", "1", *CLEAR)
    lines = done.out.splitlines()
    assert done.code == 0
    assert lines[0].startswith("y: 1 x 2: ")
    assert [part.split()[0] for part in lines[1].split(", ")] == [
        "keygen",
        "encrypt",
        "evaluate",
        "decrypt",
        "total",
    ]
    assert done.err == "warning: this plan is INSECURE: its ring is a toy, for tests only\n"


def test_output_file(call: Call, made: Files, tmp_path: Path) -> None:
    npz, npy = tmp_path / "y.npz", tmp_path / "y.npy"
    for path in (npz, npy):
        done = call(made.plan, "--input", f"{made.inputs}:x", "--output", path, "-q", *CLEAR)
        assert (done.code, done.out) == (0, "")
    assert np.load(npz)["y"].shape == (5, 2)
    assert np.array_equal(np.load(npy), np.load(npz)["y"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["y.npy", "y.npz"]


def test_npy_input(call: Call, made: Files, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", made.x[0])
    done = call(made.plan, "--input", tmp_path / "x.npy", "--json", "-q", *CLEAR)
    assert json.loads(done.out)["outputs"]["y"]["shape"] == [1, 2]


def test_encrypted(call: Call, made: Files) -> None:
    pytest.importorskip("openfhe", exc_type=ImportError)
    arguments = (made.plan, "--input", made.inputs, "--samples", "2", "--json")
    refused = call(*arguments)
    assert refused.code == 2 and "[insecure-plan]" in refused.err
    memory = ("--in-flight", "1", "--cache-constants", "1M")
    done = call(*arguments, "--insecure-toy", "--reference", made.model, "--threads", "2", *memory)
    found = json.loads(done.out)
    assert done.code == 0 and found["threads"] == 2
    predicted = Plan.load(made.plan).program.prediction.error
    assert found["max_abs_error"] < 10 * predicted and found["seconds"]["keygen"] > 0


def test_a_value_that_outgrows_its_modulus(call: Call, made: Files, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.full((1, 4), 4000.0))
    arguments = (made.plan, "--input", tmp_path / "x.npz", "--mode", "simulate", "-q")
    done = call(*arguments, "--ignore-range")
    assert done.code == 2
    assert "leaves its modulus; an encrypted run would be wrong [value-overflow]\n" in done.err


# -- errors ----------------------------------------------------------------------------------------


def test_missing_files(call: Call, made: Files, tmp_path: Path) -> None:
    none = tmp_path / "none"
    text = "(No such file or directory) [no-such-file]\n"
    assert call(none, "--input", made.inputs) == (
        2,
        "",
        f"error: {none}: cannot read the plan {text}",
    )
    assert call(made.plan, "--input", none, *CLEAR) == (
        2,
        "",
        f"error: {none}: cannot read the inputs {text}",
    )
    done = call(made.plan, "--input", made.inputs, "--reference", none, *CLEAR)
    assert done == (2, "", f"error: {none}: there is no such file [no-such-file]\n")


def test_wrong_input_name(call: Call, made: Files, tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, image=made.x, label=made.x)
    hint = "\n  hint: save it with numpy.savez(path, x=...)\n"
    assert call(made.plan, "--input", path, *CLEAR) == (
        2,
        "",
        f"error: {path}: there is no array for input x; the arrays are: image, label "
        f"[input-name]{hint}",
    )
    assert call(made.plan, "--input", f"{path}:images", *CLEAR).err == (
        f"error: {path}: there is no array images; the arrays are: image, label [input-name]{hint}"
    )


def test_wrong_input_file(call: Call, made: Files) -> None:
    assert call(made.plan, "--input", made.model, *CLEAR).err == (
        f"error: {made.model}: this is not a numeric .npz or .npy file [input-file]\n"
        "  hint: save the inputs with numpy.savez or numpy.save\n"
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (
            np.zeros((3, 5)),
            "input x has shape 3 x 5, expected 1 x 4 [input-shape]\n"
            "  hint: several samples go along one more leading axis\n",
        ),
        (
            np.zeros(()),
            "input x has shape scalar, expected 1 x 4 [input-shape]\n"
            "  hint: several samples go along one more leading axis\n",
        ),
        (np.zeros((0, 4)), "input x has no samples [input-shape]\n"),
        (
            np.array([["a"] * 4]),
            "input x has type <U1, expected numbers [input-dtype]\n  hint: convert it to float32\n",
        ),
        (np.full((1, 4), np.nan), "input x has NaN or infinite values [input-not-finite]\n"),
    ],
    ids=["shape", "scalar", "empty", "dtype", "NaN"],
)
def test_wrong_input(call: Call, made: Files, tmp_path: Path, value: np.ndarray, text: str) -> None:
    np.savez(tmp_path / "x.npz", x=value)
    assert call(made.plan, "--input", tmp_path / "x.npz", *CLEAR) == (2, "", f"error: {text}")


def test_input_outside_the_calibrated_range(call: Call, made: Files, tmp_path: Path) -> None:
    corners = list(itertools.product([-3.0, 3.0], repeat=4))
    np.savez(tmp_path / "x.npz", x=np.array(corners)[:, None])
    arguments = (made.plan, "--input", tmp_path / "x.npz", *CLEAR, "-q")
    text = "input x reaches -3 .. 3, calibrated for -1 .. 1"
    done = call(*arguments, "--ignore-range")
    assert done.code == 0
    assert f"warning: {text}; results may be wrong\n" in done.err
    assert "warning: output y reaches " in done.err
    assert call(*arguments) == (
        2,
        "",
        f"error: {text} [input-range]\n  hint: preprocess it like the calibration data, "
        "calibrate with data that covers it, or run with --ignore-range\n",
    )


def test_cannot_write_is_said_before_running(call: Call, made: Files, tmp_path: Path) -> None:
    path = tmp_path / "missing" / "y.npz"
    assert call(made.plan, "--input", made.inputs, "--output", path) == (
        2,
        "",
        f"error: {path}: cannot write there (there is no folder {path.parent}) [cannot-write]\n"
        "  hint: choose another place with --output\n",
    )


def test_not_enough_memory(
    call: Call, made: Files, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("openfhe", exc_type=ImportError)
    monkeypatch.setattr("runtime.machine.available_bytes", lambda: 100 << 20)
    done = call(
        *(made.plan, "--input", made.inputs, "--insecure-toy", "-q"),
        *("--output", tmp_path / "y.npz"),
    )
    assert done.code == 3
    assert done.err.splitlines()[1:] == [
        "error: an encrypted run needs at least 161 MiB of memory, even with evaluation keys on "
        "disk; 100 MiB are free [not-enough-memory]",
        "  hint: free some memory, use a bigger machine, or run with --mode simulate",
    ]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("library", "arguments", "text"),
    [
        ("openfhe", ("--insecure-toy",), "OpenFHE "),
        (
            "onnxruntime",
            ("--mode", "clear", "--reference", "small.onnx"),
            "--reference needs onnxruntime, which is not installed [onnxruntime-missing]\n",
        ),
    ],
)
def test_missing_library(
    call: Call,
    made: Files,
    monkeypatch: pytest.MonkeyPatch,
    library: str,
    arguments: tuple[str, ...],
    text: str,
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.chdir(made.model.parent)
    done = call(made.plan, "--input", made.inputs, *arguments)
    assert done.code == 3 and f"error: {text}" in done.err


def test_references_of_other_plans(call: Call, made: Files, tmp_path: Path) -> None:
    digits = ROOT / "models" / "digits_mlp.onnx"
    larger, renamed, broken = (
        tmp_path / f"{name}.onnx" for name in ("larger", "renamed", "broken")
    )
    model = onnx.load(made.model)
    model.graph.node[2].output[0], model.graph.node[1].output[0] = "active", "y"
    model.graph.node[2].input[0] = "y"
    onnx.save(model, larger)
    model = onnx.load(made.model)
    model.graph.input[0].name = model.graph.node[0].input[0] = "image"
    onnx.save(model, renamed)
    broken.write_bytes(b"no model")
    cases = {
        digits: "no node of the model makes y",
        larger: "its y has 3 values, the plan's 2",
        renamed: "no value is given for input image",
        broken: "ONNX Runtime cannot run the model: ",
    }
    for path, reason in cases.items():
        done = call(made.plan, "--input", made.inputs, "--reference", path, *CLEAR)
        assert done.code == 2
        assert done.err.startswith(f"error: {path}: {reason}")
        assert done.err.endswith(
            " [reference-failed]\n  hint: give the ONNX file the plan was compiled from\n"
        )


def test_a_cache_that_does_not_fit(
    call: Call, made: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openfhe", exc_type=ImportError)
    plan = Plan.load(made.plan)
    peak = plan.program.prediction.peak_bytes
    monkeypatch.setattr("runtime.machine.available_bytes", lambda: peak + 1)
    arguments = (made.plan, "--input", made.inputs, "--insecure-toy", "-q")
    done = call(*arguments, "--cache-constants", "1G")
    assert done.code == 3
    assert " for cached constants, " in done.err and "[not-enough-memory]" in done.err
    assert call(*arguments, "--cache-constants", "0").code == 0


def test_a_size_that_is_none(call: Call, made: Files) -> None:
    done = call(made.plan, "--input", made.inputs, "--cache-constants", "much")
    assert done.code == 2
    assert done.err.endswith("argument --cache-constants: is to be a size like 800M or 8G\n")


@pytest.mark.parametrize(
    "arguments", [(), ("--threads", "0"), ("--in-flight", "0"), ("--mode", "fast")]
)
def test_usage(call: Call, made: Files, arguments: tuple[str, ...]) -> None:
    given = ("--input", made.inputs) if arguments else ()
    done = call(made.plan, *given, *arguments)
    assert done.code == 2 and done.err.startswith("usage: python -m runtime.run ")


def test_a_bug_of_ours(call: Call, made: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise KeyError("level")

    monkeypatch.setattr("runtime.executor.Executor.run_images", fail)
    arguments = (made.plan, "--input", made.inputs, *CLEAR)
    done = call(*arguments)
    assert done.code == 70
    assert "internal error: KeyError: 'level'\n  this is a bug of fhecompile: " in done.err
    assert "Traceback" not in done.err and "Traceback" in call(*arguments, "-v").err
