"""What each backend makes of the operations, and its noise against the formulas."""

from __future__ import annotations

import math
import sys
from typing import Any

import msgspec
import numpy as np
import pytest

from fhecompile.ckks import noise
from fhecompile.ckks.operations import OPERATIONS, ValueType, result_type
from fhecompile.ckks.slot_mask import mask_leak
from fhecompile.errors import EXIT_ENVIRONMENT, FheCompileError, InternalError
from fhecompile.plan import Plan
from runtime.backends.base import Backend, OperationNode, operation_nodes
from runtime.backends.clear import ClearBackend
from runtime.backends.openfhe import OpenfheBackend
from runtime.backends.simulate import SimulateBackend
from runtime.constants import ConstantStore
from runtime.keys import generate_keys
from runtime.library import load_openfhe, wrapped
from tests.support import convolution_plan, run_slots

PLAN = convolution_plan()
P = PLAN.parameters
X = np.random.default_rng(0).normal(size=(2, 2, 2 * P.slots)).view(np.complex128)


def node(op: str, *operands: ValueType, **attributes: Any) -> OperationNode:
    made = result_type(op, operands, attributes, P.prime_bits)
    return OperationNode(0, op, tuple(range(len(operands))), attributes, 0, made, operands)


def ciphertext(scale: float, level: int = 0) -> ValueType:
    return ValueType("ciphertext", level, scale)


@pytest.fixture(scope="module")
def clear() -> ClearBackend:
    return ClearBackend(PLAN, ConstantStore(PLAN))


@pytest.fixture
def simulate() -> SimulateBackend:
    return SimulateBackend(PLAN, ConstantStore(PLAN))


# ---------------------------------------------------------------------------- the table


def test_every_operation_has_a_method() -> None:
    for op in OPERATIONS.keys() - {"input", "output"}:
        assert callable(getattr(Backend, op)), op
        assert op in Backend.__abstractmethods__
    assert Backend.__abstractmethods__ == OPERATIONS.keys() - {"input", "output"}


def test_unknown_operation(clear: ClearBackend) -> None:
    strange = OperationNode(0, "divide", (), {}, 0, ciphertext(40), ())
    with pytest.raises(InternalError, match=r"^backend clear has no operation divide$"):
        clear.execute(strange, [])


def test_operation_nodes() -> None:
    nodes = operation_nodes(PLAN)
    assert [n.number for n in nodes] == list(range(len(PLAN.program.operations)))
    for n in nodes:
        assert n.type == PLAN.types[n.number]
        assert n.operand_types == tuple(PLAN.types[i] for i in n.inputs)


# ---------------------------------------------------------------------------- clear


@pytest.mark.parametrize("offset", [1, 5, -3])
def test_rotation_turns_to_lower_slots(clear: ClearBackend, offset: int) -> None:
    """(rot_y x)[s] = x[s + y]."""
    x = X[0]
    turned = clear.execute(node("rotate", ciphertext(40), offset=offset), [x])
    slots = x.shape[-1]
    assert all(turned[0, s] == x[0, (s + offset) % slots] for s in range(slots))


def test_rotate_sum_is_its_expansion(clear: ClearBackend) -> None:
    kind = ciphertext(40)
    a, b, c = X[0], X[1], X[0] + 1
    direct = clear.execute(node("rotate_sum", kind, kind, kind, offsets=[0, 3, -7]), [a, b, c])
    digits = clear.execute(node("hoist", kind), [c])
    hoisted = node("rotate_hoisted_extended", kind, ValueType("digits", 0, 40.0), offset=-7)
    extended = [
        clear.execute(node("rotate_extended", kind, offset=3), [b]),
        clear.execute(hoisted, [c, digits]),
    ]
    wide = ValueType("extended", 0, 40.0)
    total = clear.execute(node("add_extended", wide, wide), extended)
    down = clear.execute(node("key_switch_down", wide), [total])
    expanded = clear.execute(node("add", kind, kind), [a, down])
    np.testing.assert_allclose(expanded, direct, rtol=0, atol=1e-13)


def test_elementwise_operations(clear: ClearBackend) -> None:
    kind, (a, b) = ciphertext(40), X
    expected = {
        "add": a + b,
        "sub": a - b,
        "mul": a * b,
        "square": a * a,
        "negate": -a,
        "conjugate": a.conj(),
        "mul_i": 1j * a,
        "rescale": a,
    }
    for op, value in expected.items():
        operands = [a, b][: OPERATIONS[op].arity]
        found = clear.execute(node(op, *[kind] * len(operands)), operands)
        np.testing.assert_array_equal(found, value, err_msg=op)
    found = clear.execute(node("relabel", kind, factor=0.25), [a])
    np.testing.assert_array_equal(found, a / 4)
    for op, attributes in (("scale_up", {"bits": 7}), ("drop_level", {"levels": 1})):
        np.testing.assert_array_equal(clear.execute(node(op, kind, **attributes), [a]), a)
    kept = clear.execute(node("keep_even", kind, order=3), [a])
    np.testing.assert_array_equal(kept[..., ::2], a[..., ::2])
    assert not np.any(kept[..., 1::2])
    assert np.all(a[..., 1::2])  # the operand stays as it is


# ---------------------------------------------------------------------------- simulate


def spread(values: np.ndarray) -> float:
    """Standard deviation of real and imaginary parts together."""
    return float(np.sqrt(np.mean(np.abs(values) ** 2) / 2))


def test_noise_of_a_square_and_a_rescale(simulate: SimulateBackend) -> None:
    """Fresh noise e becomes 2 x e; the key switch works at 2^2s, the rescale at 2^(2s - q)."""
    n, s, x = P.ring_dimension, 47.0, 0.5
    exact = np.full((400, P.slots), x, np.complex128)
    fresh = simulate.encrypt(exact, s)
    assert spread(fresh - exact) == pytest.approx(noise.encrypt_error(n) * 2**-s, rel=0.02)

    square = node("square", ciphertext(s))
    squared = simulate.execute(square, [fresh])
    key_switch = noise.key_switch_error(n, P.digits) * 2.0 ** (-2 * s)
    inherited = 2 * x * noise.encrypt_error(n) * 2**-s
    assert spread(squared - x**2) == pytest.approx(math.hypot(inherited, key_switch), rel=0.02)

    rescaled = simulate.execute(node("rescale", square.type), [squared])
    rounding = noise.rescale_error(n) * 2.0 ** (P.prime_bits - 2 * s)
    assert rounding > 5 * inherited  # so that the formula of the rescale is what is checked
    expected = math.hypot(inherited, key_switch, rounding)
    assert spread(rescaled - x**2) == pytest.approx(expected, rel=0.02)


def test_a_rescale_divides_by_a_prime() -> None:
    """With primes of 20 bits that is seen: 2^40 / p, the first one above 2^20."""
    small = msgspec.structs.replace(PLAN.program.parameters, prime_bits=20)
    plan = Plan(msgspec.structs.replace(PLAN.program, parameters=small), PLAN.arrays)
    backend = SimulateBackend(plan, ConstantStore(plan))
    x = np.ones((400, P.slots), np.complex128)
    kind = ValueType("ciphertext", 0, 40.0)
    rescale = OperationNode(
        0, "rescale", (0,), {}, 0, result_type("rescale", [kind], {}, 20), (kind,)
    )
    found = np.mean(backend.rescale(rescale, [x]).real) - 1
    expected = noise.prime_distance(P.ring_dimension, 20, 1)
    assert expected < 0 and found == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("op", ["rotate", "conjugate", "mul", "square"])
def test_noise_of_a_key_switch(simulate: SimulateBackend, op: str) -> None:
    kind = ciphertext(20.0)
    attributes = {"offset": 1} if op == "rotate" else {}
    operands = [np.ones((400, P.slots), np.complex128)] * (OPERATIONS[op].arity or 1)
    made = node(op, *[kind] * len(operands), **attributes)
    found = simulate.execute(made, operands)
    expected = noise.key_switch_error(P.ring_dimension, P.digits) * 2.0**-made.type.scale
    assert spread(found - 1) == pytest.approx(expected, rel=0.02)


def test_encoded_constants_are_rounded_but_zero_is_exact(simulate: SimulateBackend) -> None:
    ones = np.ones((400, P.slots))
    expected = noise.encode_error(P.ring_dimension) * 2.0**-20
    assert spread(simulate.encoded(ones, 20.0) - ones) == pytest.approx(expected, rel=0.02)
    assert not np.any(simulate.encoded(np.zeros(P.slots), 20.0))


def test_operations_without_noise(simulate: SimulateBackend) -> None:
    kind = ciphertext(20.0)
    for op, attributes in (("add", {}), ("sub", {}), ("negate", {}), ("drop_level", {"levels": 1})):
        operands = [X[0]] * (OPERATIONS[op].arity or 1)
        made = node(op, *[kind] * len(operands), **attributes)
        clear = ClearBackend(PLAN, simulate.constants).execute(made, operands)
        np.testing.assert_array_equal(simulate.execute(made, operands), clear)


@pytest.mark.parametrize("order", [1, 4, 20])
def test_what_a_mask_leaves(simulate: SimulateBackend, order: int) -> None:
    """Even slots exactly, odd ones times the leak; no noise is added."""
    kept = simulate.execute(node("keep_even", ciphertext(20.0), order=order), [X[0]])
    np.testing.assert_array_equal(kept[..., ::2], X[0][..., ::2])
    np.testing.assert_array_equal(kept[..., 1::2], X[0][..., 1::2] * mask_leak(order))


def test_seed() -> None:
    x = np.zeros((1, P.slots), np.complex128)
    first, again, other = (
        SimulateBackend(PLAN, ConstantStore(PLAN), seed).encrypt(x, 20.0) for seed in (0, 0, 1)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_value_overflow(simulate: SimulateBackend) -> None:
    """A value must stay below half its modulus, 2^(60 + 59 primes left)."""
    level = P.levels - 1
    bits = P.first_prime_bits + P.prime_bits
    made = node("rescale", ciphertext(100.0, level))
    limit = 2.0 ** (bits - 100 - 1)
    simulate.execute(made, [np.full((1, 4), 0.99 * limit, np.complex128)])
    with pytest.raises(FheCompileError) as caught:
        simulate.execute(made, [np.full((1, 4), limit, np.complex128)])
    layer = PLAN.program.layers[0]
    assert str(caught.value) == (
        f"{layer.source or layer.name}: a value of {limit:.3g} leaves its modulus; an encrypted "
        "run would be wrong [value-overflow]\n"
        "  hint: calibrate with data that covers this input and compile again"
    )


def test_value_overflow_names_the_layer() -> None:
    x = np.full((1, 1, 2, 8, 8), 1e12)
    with pytest.raises(FheCompileError, match=r"^conv1 norm: a value of .* leaves its modulus"):
        run_slots(PLAN, {"x": x}, noise=True)


# ---------------------------------------------------------------------------- openfhe


@pytest.mark.parametrize(
    ("error", "reason", "hint"),
    [
        (
            ModuleNotFoundError("No module named 'openfhe'", name="openfhe"),
            "OpenFHE is not installed",
            "encrypted runs need CPython 3.10 or 3.12 and: pip install fhecompile[runtime]",
        ),
        (
            ImportError("libstdc++.so.6: version `GLIBCXX_3.4.32' not found"),
            "the OpenFHE wheel needs a newer C++ library than this system has",
            "use CPython 3.10, whose wheel runs on Debian 12 and Ubuntu 22.04",
        ),
        (
            ImportError("Python version mismatch\nmore"),
            "OpenFHE cannot be imported (Python version mismatch)",
            "its wheels hold one binary each: openfhe 1.6.1.0.22.4 for CPython 3.10, "
            "1.6.1.0.24.4 for CPython 3.12; --mode simulate runs everywhere",
        ),
    ],
    ids=["missing", "old library", "other"],
)
def test_openfhe_missing(
    monkeypatch: pytest.MonkeyPatch, error: ImportError, reason: str, hint: str
) -> None:
    class Finder:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "openfhe":
                raise error

    monkeypatch.delitem(sys.modules, "openfhe", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    with pytest.raises(FheCompileError) as caught:
        load_openfhe()
    assert str(caught.value) == f"{reason} [openfhe-missing]\n  hint: {hint}"
    assert caught.value.exit_code == EXIT_ENVIRONMENT


@pytest.mark.parametrize("level", [0, 1])
@pytest.mark.parametrize("order", [1, 2, 5, 8])
def test_encrypted_mask(order: int, level: int) -> None:
    """The product is at the scale the operation table says, costs no level, and adds no noise: even
    slots are as exact as before, and odd ones hold the leak, which here is above the noise."""
    pytest.importorskip("openfhe", reason="OpenFHE is not installed")
    secret, server = generate_keys(P, PLAN.program.keys)
    try:
        backend = OpenfheBackend(PLAN, ConstantStore(PLAN), server)
        values = X[0, 0] / np.abs(X[0, 0]).max()
        encrypted = secret.encrypt(values, 45.0)
        if level:
            encrypted = backend.execute(node("drop_level", ciphertext(45.0), levels=1), [encrypted])
        made = node("keep_even", ciphertext(45.0, level), order=order)
        masked = backend.execute(made, [encrypted])
        found = secret.decrypt(masked, made.type.scale)
    finally:
        server.release()
    assert masked.GetLevel() == level
    expected = values.copy()
    expected[1::2] *= mask_leak(order)
    bound = 8 * noise.encrypt_error(P.ring_dimension) * 2.0**-45
    assert np.abs(found - expected).max() < bound < abs(mask_leak(order)) / 8


def test_errors_of_openfhe_say_what_was_done() -> None:
    with (
        pytest.raises(FheCompileError) as caught,
        wrapped("executing rotate", "conv1"),
    ):
        raise RuntimeError("EvalKey for index [25] is not found.")
    assert str(caught.value) == (
        "conv1: an evaluation key is missing while executing rotate [evaluation-key-missing]\n"
        "  hint: generate the keys again for this very plan"
    )
    with pytest.raises(FheCompileError) as caught, wrapped("encrypting"):
        raise RuntimeError("the modulus is gone\nsecond line")
    assert str(caught.value) == (
        "OpenFHE failed while encrypting: the modulus is gone [openfhe-failed]\n"
        "  hint: check that keys and ciphertexts were made for this very plan"
    )
