"""Options of single functions: files, names, and what they change."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import runtime
from fhecompile.activation_file import read_activations, with_activations
from fhecompile.compile import compile_model
from fhecompile.errors import FheCompileError
from fhecompile.frontend import import_model
from fhecompile.ir.evaluate import evaluate
from fhecompile.options import CompileOptions, FunctionOptions
from tests.support import FloatArray, Network

SAMPLES = np.random.default_rng(0).uniform(-1.0, 1.0, (40, 1, 12))


def write(folder: Path, text: str) -> Path:
    path = folder / "activations.toml"
    path.write_text(text)
    return path


def test_every_key(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        '["/a/*/Relu"]\nrange = [-4, 2.5]\ndegree = 31\nerror = 0.01\nfunction = "minimax"\n'
        "[sign]\ngap = 0.05\n[empty]\n",
    )
    expected = {
        "/a/*/Relu": FunctionOptions((-4.0, 2.5), 31, 0.01, None, "minimax"),
        "sign": FunctionOptions(gap=0.05),
        "empty": FunctionOptions(),
    }
    assert read_activations(path) == expected
    options = with_activations(CompileOptions(activations=path))
    assert options.activations == expected
    assert with_activations(options) is options


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x = ", "is not TOML: Invalid value (at end of document)"),
        ("x = 1", 'x is not a table [activation-file]\n  hint: write ["x"], and its keys below it'),
        (
            "[x]\ncolour = 1",
            "[x] has the unknown key colour [activation-file]\n"
            "  hint: keys are: range, degree, error, gap, function",
        ),
        ("[x]\nrange = 3", "[x] range is not two numbers, the lower one first"),
        ("[x]\nrange = [1, 1]", "[x] range is not two numbers, the lower one first"),
        ("[x]\nrange = [0, inf]", "[x] range is not two numbers, the lower one first"),
        ("[x]\ndegree = 1", "[x] degree is not a whole number from 2 to 255"),
        ("[x]\ndegree = true", "[x] degree is not a whole number from 2 to 255"),
        ("[x]\ndegree = 7.5", "[x] degree is not a whole number from 2 to 255"),
        ("[x]\nerror = 0", "[x] error is not a number above 0"),
        ('[x]\ngap = "1"', "[x] gap is not a number above 0"),
        (
            '[x]\nfunction = "lookup"',
            "[x] function is not one of minimax, weighted, composite",
        ),
        ("[x]\nfunction = [1]", "[x] function is not one of minimax, weighted, composite"),
    ],
)
def test_what_is_wrong(tmp_path: Path, text: str, reason: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(FheCompileError) as caught:
        read_activations(path)
    found = caught.value.render()
    if "[activation-file]" not in reason:
        reason += " [activation-file]"
    assert found == f"{path}: {reason}"


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FheCompileError) as caught:
        read_activations(tmp_path / "none.toml")
    assert caught.value.render() == (
        f"{tmp_path}/none.toml: cannot be read (No such file or directory) [activation-file]"
    )


# ---------------------------------------------------------------------------- compiling


def network(*kinds: str) -> bytes:
    """A linear map in front of every activation, which are called act0, act1, ..."""
    random = np.random.default_rng(6)
    net, h, width = Network(x=(1, 12)), "x", 12
    for k, kind in enumerate(kinds):
        h = net.op("Gemm", h, random.normal(size=(8, width)) / 4, transB=1)
        h, width = net.op(kind, h, name=f"act{k}"), 8
    net.op("Gemm", h, random.normal(size=(5, 8)) / 3, random.normal(size=5), transB=1, name="y")
    return net.model("y")


def remarks(model: bytes, x: FloatArray = SAMPLES, **options: object) -> tuple[str, ...]:
    """Of fit_functions, and no pass behind it runs."""
    from fhecompile.compile import start
    from fhecompile.ir.program import PassManager

    passes, program = start(model, x, CompileOptions(**options))  # type: ignore[arg-type]
    (last,) = [k for k, p in enumerate(passes) if p.name == "fit_functions"]
    manager = PassManager(passes[: last + 1])
    manager.run(program)
    return manager.records[-1].remarks


def test_the_last_pattern_counts() -> None:
    options = {"act?": FunctionOptions((-8.0, 8.0)), "act1": FunctionOptions((-9.0, 9.0))}
    found = remarks(network("Relu", "Tanh"), activations=options)
    assert "relu on -8 to 8 by " in found[0]
    assert "tanh on -9 to 9 by " in found[1]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (FunctionOptions(function="composite"), "by degree 7, 15, 15, depth 12"),
        (FunctionOptions(error=1e-4), "by degree 15, 15, 15, 15, depth 17"),
        (FunctionOptions((-2.0, 2.0), degree=200), "on -2 to 2 by degree 126, depth 7"),
        (FunctionOptions(function="weighted"), "by degree 126, depth 7"),
        (FunctionOptions(function="minimax"), "by degree 126, depth 7"),
    ],
)
def test_single_functions(options: FunctionOptions, text: str) -> None:
    assert text in remarks(network("Relu"), activations={"act0": options})[0]


def test_values_outside_of_a_range_are_counted() -> None:
    found = remarks(
        network("Tanh"), activations={"act0": FunctionOptions((-1.0, 9.0))}, activation_error=1.0
    )
    assert found[1].endswith(
        " of 320 values of the calibration data are outside of that range"
    ) and found[1].startswith("act0: up to ")


def refusal(model: bytes, x: FloatArray = SAMPLES, **options: object) -> str:
    with pytest.raises(FheCompileError) as caught:
        remarks(model, x, **options)
    return caught.value.render()


def test_names_that_are_no_functions() -> None:
    options = {"act7": FunctionOptions()}
    assert refusal(network("Relu", "Tanh"), activations=options) == (
        "no function that is to be fitted is called act7 [activation-options]\n"
        "  hint: there are: act0, act1"
    )
    net = Network(x=(1, 12))
    net.op("Mul", "x", "x", name="y")
    assert refusal(net.model("y"), activations=options).endswith("hint: there are: none")


def test_options_that_leave_nothing() -> None:
    wanted = FunctionOptions((-4.0, 4.0), degree=7, error=1e-6)
    assert refusal(network("Relu"), activations={"act0": wanted}) == (
        "act0: no approximation of relu on -4 to 4 is what the options for it ask for "
        "[activation-options]\n  hint: allow more error, more degree, or another function"
    )


def test_a_range_where_the_function_is_not_defined() -> None:
    net = Network(x=(1, 12))
    net.op("Sqrt", net.op("Mul", "x", "x"), name="y")
    assert refusal(net.model("y"), activations={"y": FunctionOptions((-1.0, 4.0))}) == (
        "y: sqrt is not defined on all of the range -1 to 4 [activation-options]\n"
        "  hint: it needs numbers at least 0"
    )


# ---------------------------------------------------------------------------- errors and signs


def test_functions_may_err_more_than_noise() -> None:
    """Depth is saved, and noise still keeps all the bits it is asked for."""
    plans = [
        compile_model(
            network("Relu"),
            SAMPLES,
            CompileOptions(activation_error=error, ring_dimension=256, insecure_toy=True),
        ).plan.program.prediction
        for error in (None, 0.05)
    ]
    strict, loose = plans
    assert loose.multiplicative_depth < strict.multiplicative_depth
    assert strict.fitted_error < 2.0**-8 * strict.output_range < loose.fitted_error
    assert loose.fitted_error <= 0.05 * loose.output_range
    assert loose.noise_error <= 2.0**-8 * loose.output_range
    assert loose.allowed_error == pytest.approx((0.05 + 2.0**-8) * loose.output_range)


@pytest.mark.parametrize("error", [0.0, -1.0, 1.5])
def test_activation_errors_are_shares(error: float) -> None:
    assert refusal(network("Relu"), activation_error=error) == (
        f"activation_error is {error:g}, allowed are numbers above 0 to 1 [option-value]"
    )


def signs() -> bytes:
    net = Network(x=(1, 12))
    h = net.op("Sign", "x", name="act0")
    net.op("Gemm", h, np.random.default_rng(6).normal(size=(5, 12)), transB=1, name="y")
    return net.model("y")


# At least 0.1 in magnitude.
AWAY = np.sign(SAMPLES) * (0.1 + 0.9 * np.abs(SAMPLES))


@pytest.mark.parametrize("gap", [None, 0.08])
def test_a_sign_has_a_gap(gap: float | None) -> None:
    model = signs()
    options = CompileOptions(
        activations={"act0": FunctionOptions(gap=gap)}, ring_dimension=256, insecure_toy=True
    )
    done = compile_model(model, AWAY, options)
    (found,) = [r.remarks for r in done.records if r.name == "fit_functions"]
    assert found[1] == (
        f"act0: the sign of values above {gap or 0.05} in magnitude; on the calibration data the "
        "least is 0.1"
    )
    expected = evaluate(import_model(model).graph, {"x": AWAY})["y"]
    simulated = runtime.run(done.plan, AWAY, "simulate")["y"].reshape(expected.shape)
    assert np.abs(simulated - expected).max() <= 2.0**-8 * np.abs(expected).max()


def test_gaps_that_do_not_fit() -> None:
    wide = {"act0": FunctionOptions(gap=0.5)}
    assert refusal(signs(), AWAY, activations=wide) == (
        "act0: the gap 0.5 of a sign is wider than what the calibration data keep from zero, "
        "0.1 [sign-near-zero]\n  hint: give a smaller gap, or other calibration data"
    )
    near = {"act0": FunctionOptions(gap=1e-9)}
    text = (
        "act0: a sign of values from -1.199 to 1.194 as near to zero as {} [sign-near-zero]\n"
        "  hint: give the gap that values keep from zero with --activations, 7.3e-05 or more"
    )
    assert refusal(signs(), AWAY, activations=near) == text.format("1e-09")
    touching = AWAY.copy()
    touching[3, 0, 4] = 2e-7
    assert refusal(signs(), touching) == text.format("1e-07")


def test_a_sign_of_one_kind_is_a_number() -> None:
    found = remarks(signs(), np.abs(AWAY))
    assert " by degree 1, depth 0, error over largest value 0" in found[0]
