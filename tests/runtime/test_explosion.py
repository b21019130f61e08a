"""A polynomial network that explodes is reported: simulated, encrypted, by the roles, in JSON."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import runtime
from fhecompile.compile import compile_model
from fhecompile.errors import FheCompileError
from fhecompile.options import CompileOptions
from fhecompile.plan import Plan
from runtime.__main__ import main
from runtime.inputs import CalibrationWarning
from runtime.key_files import make_keys
from runtime.keys import SecretContext, generate_key_pair
from runtime.library import make_context
from runtime.roles import decrypt_file, encrypt_file, evaluate_file
from runtime.session import InferenceSession
from tests.runtime.conftest import Call

MODELS = Path(__file__).parents[2] / "models"
NOISE = np.random.default_rng(0).uniform(-10, 10, (2, 1, 1, 8, 8))
FIRST_LAYER = "/layers/layers.0/Conv /layers/layers.1/BatchNormalization"
SECOND_LAYER = "/layers/layers.3/Conv /layers/layers.4/BatchNormalization"
ADVICE = (
    "the values left the range this plan was made for: do not trust the result; the same input "
    "with --mode simulate shows the layer"
)


@pytest.fixture(scope="module")
def plan() -> Plan:
    """The digits network, two activations x * x, in a toy ring."""
    calibration = np.load(MODELS / "digits_calibration.npz")["image"]
    options = CompileOptions(ring_dimension=2048, insecure_toy=True)
    return compile_model(MODELS / "digits_cnn.onnx", calibration, options).plan


def told(action: Callable[[], Any]) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", CalibrationWarning)
        action()
    return [str(w.message) for w in caught if w.category is CalibrationWarning]


def image_text() -> str:
    return f"input image reaches {NOISE.min():.4g} .. {NOISE.max():.4g}, calibrated for -1 .. 1"


@pytest.mark.parametrize("mode", ["clear", "simulate", "encrypt"])
def test_noise_is_refused(plan: Plan, mode: Any) -> None:
    with pytest.raises(FheCompileError) as caught:
        runtime.run(plan, NOISE, mode, insecure_toy=True)
    assert (caught.value.code, caught.value.reason) == ("input-range", image_text())


def test_simulated_the_layer_is_named(plan: Plan) -> None:
    with pytest.raises(FheCompileError) as caught, pytest.warns(CalibrationWarning):
        runtime.run(plan, NOISE, "simulate", ignore_range=True)
    assert caught.value.code == "value-overflow"
    assert caught.value.reason.endswith("leaves its modulus; an encrypted run would be wrong")
    assert caught.value.hint is not None
    assert caught.value.hint.startswith(f"layer {FIRST_LAYER} reaches a magnitude of ")


def test_encrypted_the_output_tells(plan: Plan) -> None:
    pytest.importorskip("openfhe", exc_type=ImportError)
    with InferenceSession(plan, insecure_toy=True, ignore_range=True, threads=1) as session:
        calm = np.load(MODELS / "digits_test.npz")["image"][0]
        assert told(lambda: session.run(None, {"image": calm})) == []
        first, second = told(lambda: session.run(None, {"image": NOISE}))
        assert first == f"{image_text()}; results may be wrong"
        low, high = plan.program.outputs[0].low, plan.program.outputs[0].high
        assert second.startswith("output logits reaches ")
        assert second.endswith(f", calibrated for {low:.4g} .. {high:.4g}; {ADVICE}")
        # Once in a session.
        assert told(lambda: session.run(None, {"image": NOISE})) == []
        assert session.outside.texts == {"input image": first, "output logits": second}


def test_json_says_what_left_its_range(plan: Plan, call: Call, tmp_path: Path) -> None:
    plan.save(tmp_path / "a.fheplan")
    np.savez(tmp_path / "x.npz", image=NOISE / 5)
    options = (tmp_path / "a.fheplan", "--input", tmp_path / "x.npz", "--json", "-q")
    done = call(*options, "--mode", "clear", "--ignore-range")
    first, second, third = json.loads(done.out)["outside_range"]
    places = [said["place"] for said in (first, second, third)]
    assert places == ["input image", f"layer {SECOND_LAYER}", "output logits"]
    texts = (first["text"], second["text"], third["text"])
    assert "".join(f"warning: {text}\n" for text in texts) in done.err
    assert third["text"].endswith("do not trust the result")
    np.savez(tmp_path / "x.npz", image=np.load(MODELS / "digits_test.npz")["image"][:2])
    assert json.loads(call(*options, "--mode", "clear").out)["outside_range"] == []


def test_json_of_the_simulator_names_the_layer(plan: Plan, call: Call, tmp_path: Path) -> None:
    plan.save(tmp_path / "a.fheplan")
    np.savez(tmp_path / "x.npz", image=NOISE / 6)
    options = (tmp_path / "a.fheplan", "--input", tmp_path / "x.npz", "--json", "-q")
    found = json.loads(call(*options, "--mode", "simulate", "--ignore-range").out)
    places = [said["place"] for said in found["outside_range"]]
    assert places == ["input image", f"layer {SECOND_LAYER}", "output logits"]
    assert found["outside_range"][2]["text"].endswith("do not trust the result")


def test_the_decrypting_role_tells(
    plan: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("openfhe", exc_type=ImportError)
    keys = tmp_path / "keys"
    make_keys([plan], keys)
    plan.save(tmp_path / "a.fheplan")
    x, y = tmp_path / "x.fhe", tmp_path / "y.fhe"
    (said,) = told(
        lambda: encrypt_file(plan, keys / "public.key", {"image": NOISE}, x, ignore_range=True)
    )
    assert said == f"{image_text()}; results may be wrong"
    evaluate_file(plan, keys / "evaluation.keys", x, y, threads=1)
    files = ("--key", keys / "secret.key", "--input", y, "--output", tmp_path / "y.npz")
    code = main([str(a) for a in ("decrypt", tmp_path / "a.fheplan", *files, "--insecure-toy")])
    assert code == 0
    assert f"; {ADVICE}\n" in capsys.readouterr().err
    report = runtime.inputs.RangeReport()
    for expected in (1, 0):
        found = told(lambda: decrypt_file(plan, keys / "secret.key", y, report))
        assert len(found) == expected


# -- what cannot be decoded ------------------------------------------------------------------------


def text_of(action: Callable[[], Any]) -> str:
    with pytest.raises(FheCompileError) as caught:
        action()
    return str(caught.value)


HINT = (
    "\n  hint: run the same input with --mode simulate, which names the layer; if that is fine, "
    "check that the keys were made for this very plan"
)


def test_openfhe_finds_only_noise(plan: Plan) -> None:
    """OpenFHE estimates the noise where values are real; another key gives nothing else."""
    pytest.importorskip("openfhe", exc_type=ImportError)
    context = make_context(plan.parameters, is_complex=False)
    pairs = [context.KeyGen() for _ in range(2)]
    one, other = (
        SecretContext(
            context=context,
            public_key=pair.publicKey,
            secret_key=pair.secretKey,
            parameters=plan.parameters,
        )
        for pair in pairs
    )
    vector = np.full(plan.parameters.slots, 0.5)
    ciphertext = one.encrypt(vector, 40.0)
    assert np.allclose(one.decrypt(ciphertext, 40.0), 0.5, atol=1e-5)
    assert text_of(lambda: other.decrypt(ciphertext, 40.0, "output y")) == (
        "output y: OpenFHE finds nothing but noise in it: its values left their modulus, or it was "
        f"made with another key [output-unreadable]{HINT}"
    )


def test_values_that_are_not_finite(plan: Plan) -> None:
    pytest.importorskip("openfhe", exc_type=ImportError)
    secret = generate_key_pair(plan.parameters)

    class Decoded:
        def SetLength(self, length: int) -> None:  # noqa: N802
            pass

        def GetCKKSPackedValueArray(self) -> Any:  # noqa: N802
            return np.array([0.0, np.nan] * (plan.parameters.slots // 2), np.complex128)

    class Context:
        def Decrypt(self, *_: Any) -> Decoded:  # noqa: N802
            return Decoded()

    object.__setattr__(secret, "context", Context())
    assert text_of(lambda: secret.decrypt(None, 40.0, "output y")) == (
        "output y: what is decrypted holds NaN or infinite values: its values left their modulus, "
        f"or it was made with another key [output-unreadable]{HINT}"
    )
