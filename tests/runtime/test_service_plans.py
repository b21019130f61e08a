"""How large the files of a plan may be: never smaller than what OpenFHE makes."""

from __future__ import annotations

import msgspec
import pytest

from fhecompile.plan import Plan
from fhecompile.plan.schema import KeysInfo
from runtime.keys import generate_automorphism_keys, generate_key_pair
from runtime.serialization import to_bytes
from runtime.service.plans import input_bytes
from tests.support import convolution_plan

PLAN = convolution_plan()


@pytest.mark.parametrize(("levels", "digits"), [(1, 2), (3, 1), (3, 2), (4, 1), (6, 1), (11, 2)])
def test_keys_of_any_parameters_fit(levels: int, digits: int) -> None:
    """However many special primes OpenFHE takes, and without the margin for small files."""
    pytest.importorskip("openfhe")
    info = msgspec.structs.replace(PLAN.program.parameters, levels=levels, digits=digits)
    keys = KeysInfo((1,), False, False)
    program = msgspec.structs.replace(PLAN.program, parameters=info, keys=keys)
    plan = Plan(program, PLAN.arrays)
    secret = generate_key_pair(plan.parameters)
    ((_, key),) = generate_automorphism_keys(secret, keys, 1)
    limit = plan.parameters.key_bytes
    assert 0.95 * limit < len(to_bytes(key)) < 1.1 * limit + 4096


def test_inputs_fit() -> None:
    pytest.importorskip("openfhe")
    secret = generate_key_pair(PLAN.parameters)
    ciphertext = secret.encrypt(PLAN.vector(0, 0), 30.0)
    assert 0.8 * input_bytes(PLAN) < len(to_bytes(ciphertext)) < 1.1 * input_bytes(PLAN) + 4096
