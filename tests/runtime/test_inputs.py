"""What a plan accepts as inputs, and the exact texts of what it does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fhecompile.compile import compile_model
from fhecompile.errors import FheCompileError
from fhecompile.options import CompileOptions
from fhecompile.plan import Plan
from runtime.inputs import CalibrationWarning, check_inputs, check_outputs, read_inputs
from tests.support import Network, convolution_plan

PLAN = convolution_plan()  # one input x of 1 x 2 x 8 x 8
ONE = np.full((1, 2, 8, 8), 0.5)


@pytest.fixture(scope="module")
def pair() -> Plan:
    """Two inputs, a of 3 and b of 1 x 3; outputs both sum and product."""
    net = Network(a=(3,), b=(1, 3))
    total, product = net.op("Add", "a", "b", name="total"), net.op("Mul", "a", "b", name="product")
    options = CompileOptions(ring_dimension=256, insecure_toy=True)
    return compile_model(net.model(total, product), None, options).plan


def text_of(plan: Plan, feeds: dict[str, Any], **options: bool) -> str:
    with pytest.raises(FheCompileError) as caught:
        check_inputs(plan, feeds, **options)
    return str(caught.value)


# ---------------------------------------------------------------------------- forms


@pytest.mark.parametrize(
    ("shape", "samples"),
    [((1, 2, 8, 8), 1), ((2, 8, 8), 1), ((4, 2, 8, 8), 4), ((4, 1, 2, 8, 8), 4)],
    ids=["the input's shape", "without its 1", "samples for the 1", "one more axis"],
)
def test_forms_of_samples(shape: tuple[int, ...], samples: int) -> None:
    x = np.random.default_rng(0).uniform(-1, 1, shape)
    (found,) = check_inputs(PLAN, {"x": x})
    assert found.shape == (samples, 1, 2, 8, 8)
    assert np.array_equal(found.ravel(), x.ravel())


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int8, np.uint8, np.bool_])
def test_types(dtype: Any) -> None:
    (found,) = check_inputs(PLAN, {"x": np.ones((1, 2, 8, 8), dtype)})
    assert found.dtype == np.float64
    assert np.all(found == 1)


def test_a_list_is_an_array(pair: Plan) -> None:
    a, b = check_inputs(pair, {"a": [0.1, 0.2, 0.3], "b": [[0, 0, 0]]})
    assert a.shape == (1, 3) and b.shape == (1, 1, 3)


def test_order_is_the_plans(pair: Plan) -> None:
    a, b = check_inputs(pair, {"b": np.zeros((1, 3)), "a": np.full(3, 0.5)})
    assert np.all(a == 0.5) and not np.any(b)


# ---------------------------------------------------------------------------- errors


def test_names() -> None:
    hint = "\n  hint: the inputs are: x"
    assert text_of(PLAN, {"x": ONE, "z": ONE}) == "there is no input z [input-name]" + hint
    assert text_of(PLAN, {}) == "input x is missing [input-name]" + hint


def test_dtype() -> None:
    assert text_of(PLAN, {"x": ONE.astype(str)}) == (
        "input x has type <U32, expected numbers [input-dtype]\n  hint: convert it to float32"
    )
    assert "input x has type complex128" in text_of(PLAN, {"x": ONE + 0j})


@pytest.mark.parametrize(
    ("shape", "shown"),
    [
        ((), "scalar"),
        ((1, 2, 8, 7), "1 x 2 x 8 x 7"),
        ((128,), "128"),
        ((3, 3, 2, 8, 8), "3 x 3 x 2 x 8 x 8"),
    ],
)
def test_shape(shape: tuple[int, ...], shown: str) -> None:
    assert text_of(PLAN, {"x": np.zeros(shape)}) == (
        f"input x has shape {shown}, expected 1 x 2 x 8 x 8 [input-shape]\n"
        "  hint: several samples go along one more leading axis"
    )


def test_no_samples() -> None:
    assert text_of(PLAN, {"x": np.zeros((0, 2, 8, 8))}) == "input x has no samples [input-shape]"


def test_different_numbers_of_samples(pair: Plan) -> None:
    assert text_of(pair, {"a": np.zeros((2, 3)), "b": np.zeros((3, 1, 3))}) == (
        "the inputs have different numbers of samples [input-shape]"
    )


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_not_finite(wrong: float) -> None:
    x = ONE.copy()
    x[0, 1, 2, 3] = wrong
    assert text_of(PLAN, {"x": x}) == "input x has NaN or infinite values [input-not-finite]"


def test_range() -> None:
    info = PLAN.program.inputs[0]
    calibrated = f"calibrated for {info.low:.4g} .. {info.high:.4g}"
    x = ONE.copy()
    x[0, 0, 0, 0] = -3
    assert text_of(PLAN, {"x": x}) == (
        f"input x reaches -3 .. 0.5, {calibrated} [input-range]\n"
        "  hint: preprocess it like the calibration data, calibrate with data that covers it, "
        "or run with --ignore-range"
    )
    with pytest.warns(CalibrationWarning) as warned:
        check_inputs(PLAN, {"x": x}, ignore_range=True)
    assert [str(w.message) for w in warned] == [
        f"input x reaches -3 .. 0.5, {calibrated}; results may be wrong"
    ]


def test_range_has_a_margin(recwarn: pytest.WarningsRecorder) -> None:
    check_inputs(PLAN, {"x": ONE * 2.8})  # calibrated for -1 .. 1, half as much again is accepted
    assert not recwarn


def test_outputs_outside_their_range(recwarn: pytest.WarningsRecorder) -> None:
    info = PLAN.program.outputs[0]
    check_outputs(PLAN, [np.full((1, *info.shape), info.high)])
    assert not recwarn
    with pytest.warns(CalibrationWarning, match=r"^output y reaches 1e\+06 .. 1e\+06, calibrated"):
        check_outputs(PLAN, [np.full((1, *info.shape), 1e6)])


def test_an_output_that_never_varied_may_carry_noise(recwarn: pytest.WarningsRecorder) -> None:
    net = Network(x=(1, 4))
    y = net.op("Add", net.op("MatMul", "x", np.zeros((4, 2))), 2.0, name="y")
    options = CompileOptions(ring_dimension=256, insecure_toy=True)
    plan = compile_model(net.model(y), None, options).plan
    check_outputs(plan, [np.full((1, 1, 2), 2.001)])
    assert not recwarn


# ---------------------------------------------------------------------------- files


def test_files(tmp_path: Path, pair: Plan) -> None:
    npz, npy = tmp_path / "x.npz", tmp_path / "x.npy"
    np.savez(npz, x=ONE, other=np.zeros(3))
    np.save(npy, ONE)
    for source in (npz, npy, f"{npz}:x"):
        assert np.array_equal(read_inputs(source, PLAN)["x"], ONE)
    for source, reason in [
        (npy, "one array is given for the inputs a, b"),
        (npz, "there is no array for input a; the arrays are: x, other"),
    ]:
        with pytest.raises(FheCompileError) as caught:
            read_inputs(source, pair)
        assert str(caught.value) == (
            f"{source}: {reason} [input-name]\n  hint: save it with numpy.savez(path, a=..., b=...)"
        )


def test_unreadable_files(tmp_path: Path) -> None:
    text = tmp_path / "x.npy"
    text.write_text("not numbers")
    with pytest.raises(FheCompileError) as caught:
        read_inputs(text, PLAN)
    assert str(caught.value) == (
        f"{text}: this is not a numeric .npz or .npy file [input-file]\n"
        "  hint: save the inputs with numpy.savez or numpy.save"
    )
    with pytest.raises(FheCompileError) as caught:
        read_inputs(tmp_path / "no.npy", PLAN)
    assert str(caught.value) == (
        f"{tmp_path / 'no.npy'}: cannot read the inputs (No such file or directory) [no-such-file]"
    )
