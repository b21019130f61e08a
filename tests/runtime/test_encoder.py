"""Encoding: what rounds to nothing is zero."""

from __future__ import annotations

import numpy as np
import pytest

from fhecompile.ckks.parameters import Parameters

pytest.importorskip("openfhe")

from runtime.backends.encoder import encode_vector
from runtime.library import make_context

PARAMETERS = Parameters(2048, 3, 46, 47, 1, 128, insecure=True)


@pytest.mark.parametrize("kind", [np.float64, np.complex128])
def test_what_rounds_to_zero_is_zero(kind: type) -> None:
    """OpenFHE refuses a vector of which no coefficient is left; a bias may be 1e-16."""
    context = make_context(PARAMETERS)
    tiny = np.full(PARAMETERS.slots, 1e-20, kind)
    found = encode_vector(context, PARAMETERS, tiny, 46.0, 0)
    zeros = encode_vector(context, PARAMETERS, np.zeros(PARAMETERS.slots, kind), 46.0, 0)
    assert np.array_equal(found.GetCKKSPackedValueArray(), zeros.GetCKKSPackedValueArray())
    assert not np.any(found.GetCKKSPackedValueArray())


def test_other_refusals_are_not_hidden() -> None:
    context = make_context(PARAMETERS)
    with pytest.raises(RuntimeError):
        encode_vector(context, PARAMETERS, np.ones(2 * PARAMETERS.slots), 46.0, 0)
