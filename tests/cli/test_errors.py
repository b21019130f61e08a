"""What the command line says of wrong input: exact texts, exit codes, nothing half-written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fhecompile.plan.files import write_atomically
from fhecompile.plan.schema import FORMAT_VERSION
from tests.cli.conftest import Call
from tests.small import write_model


def test_not_an_onnx_file(call: Call, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_text("hello")
    assert call(path) == (
        2,
        "",
        f"error: {path}: this is not an ONNX model: no graph with outputs can be read from it "
        "[not-onnx]\n  hint: give a file written by torch.onnx.export, onnx.save or a similar "
        "exporter\n",
    )


def test_missing_model(call: Call, tmp_path: Path) -> None:
    path = tmp_path / "none.onnx"
    assert call(path) == (
        2,
        "",
        f"error: {path}: there is no such file [no-such-file]\n"
        "  hint: give the path of an ONNX model\n",
    )


def test_dynamic_shape(call: Call, tmp_path: Path) -> None:
    path = write_model(tmp_path / "dynamic.onnx", ("n", 4))
    assert call(path) == (
        2,
        "",
        f"error: {path}: input x has shape (n, 4), but every dimension must be a known number "
        "[dynamic-shape]\n  hint: give --input-shape x=1x4\n",
    )


def test_unsupported_operator(call: Call, tmp_path: Path) -> None:
    path = write_model(tmp_path / "floor.onnx", activation="Floor")
    done = call(path)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(
        f"error: {path}: 1 node cannot be compiled:\n"
        "  1 x Floor: not supported (activation) [unsupported-operators]\n  hint: Floor: "
    )
    assert not path.with_suffix(".fheplan").exists()


def test_too_deep_for_the_ring(call: Call, model: Path) -> None:
    done = call(model, "--ring-dimension", "1024")
    assert done.code == 2
    assert done.err.startswith("error: y: no ring dimension is secure at 128 bits ")
    assert "[too-deep]\n  hint: " in done.err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--ring-dimension", "1000"], "error: ring_dimension is 1000, allowed are powers of two "),
        (["--precision-bits", "0"], "error: precision_bits is 0, allowed are 1 to 40"),
        (["--max-keys", "-1"], "error: max_keys is -1, allowed are 0 and more [option-value]\n"),
        (["--max-memory", "6"], "error: max_memory is 6 bytes, allowed are 1 MiB and more [op"),
        (["--max-memory", "six"], "Usage: fhecompile compile [OPTIONS] MODEL\n"),
        (["--passes", "polish"], "error: there is no pass polish [unknown-pass]\n  hint: the p"),
        (["--passes", "clean_graph"], "error: no pass of the pipeline gives a plan [pipeline-ord"),
        (["--passes", "a{"], "error: cannot read the pipeline at 'a{' [pipeline-syntax]\n"),
        (["--calibrate", "no.npz"], "error: no.npz: there is no such file [no-such-file]\n"),
        (["--security", "100"], "Usage: fhecompile compile [OPTIONS] MODEL\n"),
        (["--input-shape", "x=1y4"], "Usage: fhecompile compile [OPTIONS] MODEL\n"),
        (["--input-shape", "z=1x4"], None),
        (["--colour"], "Usage: fhecompile compile [OPTIONS] MODEL\n"),
    ],
)
def test_wrong_options(call: Call, model: Path, arguments: list[str], text: str | None) -> None:
    done = call(model, *arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(
        text or f"error: {model}: a shape is given for z, but the inputs are x [dynamic-shape]\n"
    )
    assert not model.with_suffix(".fheplan").exists()


def test_no_size(call: Call, model: Path) -> None:
    assert call(model, "--max-memory", "six").err.endswith(
        "Error: Invalid value for '--max-memory': 'six' is no size like 800M or 6G\n"
    )


def test_too_few_keys(call: Call, model: Path) -> None:
    done = call(model, "--ring-dimension", "256", "--insecure-toy", "--max-keys", "0")
    assert (done.code, done.out) == (2, "")
    assert done.err == (
        "error: 0 rotation keys are too few, this network needs 1 [key-budget]\n"
        "  hint: allow 1 with --max-keys, or more memory with --max-memory\n"
    )
    assert not model.with_suffix(".fheplan").exists()


def test_missing_array(call: Call, model: Path) -> None:
    path = model.parent / "data.npz"
    np.savez(path, x=np.zeros((2, 1, 4)))
    assert call(model, "--calibrate", f"{path}:faces").err == (
        f"error: {path}: there is no array faces [calibration-mismatch]\n"
        "  hint: the arrays are: x\n"
    )


def test_mistyped_command(call: Call) -> None:
    done = call("inspct", "a.fheplan")
    assert done.code == 2
    assert done.err.endswith("Error: There is no command or model inspct. Did you mean inspect?\n")


@pytest.mark.parametrize("command", [("inspect",), ("check", "a.onnx")])
def test_missing_arguments(call: Call, command: tuple[str, ...]) -> None:
    done = call(*command)
    assert done.code == 2 and "Error: Missing " in done.err


def test_cannot_write(call: Call, model: Path, tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    assert call(model, "-o", missing / "a.fheplan").err == (
        f"error: {missing / 'a.fheplan'}: cannot write there (there is no folder {missing}) "
        "[cannot-write]\n  hint: choose another place with -o\n"
    )
    assert call(model, "-o", tmp_path) == (
        2,
        "",
        f"error: {tmp_path}: cannot write there (that is a folder) [cannot-write]\n"
        "  hint: choose another place with -o\n",
    )


def test_the_model_is_not_overwritten(call: Call, model: Path) -> None:
    before = model.read_bytes()
    assert call(model, "-o", model) == (
        2,
        "",
        f"error: {model}: that is the model itself [cannot-write]\n"
        "  hint: choose another place with -o\n",
    )
    assert model.read_bytes() == before


def test_a_failing_disk_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "a.fheplan"
    target.write_bytes(b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(Exception, match=r"cannot write there \(No space left on device\)"):
        write_atomically(target, b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["a.fheplan"]
    assert target.read_bytes() == b"old"


def test_truncated_plan(call: Call, plan: Path) -> None:
    whole = plan.read_bytes()
    reasons = {}
    for length in (0, 5, 100, len(whole) // 2, len(whole) - 1):
        plan.write_bytes(whole[:length])
        done = call("inspect", plan)
        assert (done.code, done.out) == (2, "")
        reasons[length] = done.err
    damaged = f"error: {plan}: the plan file is damaged: "
    hint = " [plan-damaged]\n  hint: copy it again, or compile the model again\n"
    assert reasons.pop(len(whole) - 1) == f"{damaged}its header does not match its size{hint}"
    assert set(reasons.values()) == {f"{damaged}it is shorter than its header{hint}"}


def test_every_flipped_byte_is_found(call: Call, plan: Path) -> None:
    whole = bytearray(plan.read_bytes())
    for position in range(0, len(whole), len(whole) // 40):
        flipped = whole.copy()
        flipped[position] ^= 0x10
        plan.write_bytes(flipped)
        done = call("inspect", plan)
        assert (done.code, done.out) == (2, ""), position
        assert done.err.startswith(f"error: {plan}: "), position
    assert "its checksum does not match its content [plan-damaged]" in done.err


def test_plan_of_another_version(call: Call, plan: Path) -> None:
    written = plan.read_bytes()
    changed = written.replace(b'"version":"%d"' % FORMAT_VERSION, b'"version":"7"', 1)
    assert changed != written
    plan.write_bytes(changed)
    assert call("inspect", plan) == (
        2,
        "",
        f"error: {plan}: the plan has format version 7, this version reads {FORMAT_VERSION} "
        "[plan-version]\n"
        "  hint: compile the model again with this version of fhecompile\n",
    )


def test_not_a_plan(call: Call, model: Path) -> None:
    assert call("inspect", model) == (
        2,
        "",
        f"error: {model}: this is not a plan file [not-a-plan]\n"
        "  hint: make one with: fhecompile model.onnx\n",
    )


def test_missing_plan(call: Call, tmp_path: Path) -> None:
    path = tmp_path / "none.fheplan"
    assert call("inspect", path).err == (
        f"error: {path}: cannot read the plan (No such file or directory) [no-such-file]\n"
    )
