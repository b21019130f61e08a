"""What the parameters, series, layers and arrays of an untrusted plan must be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fhecompile.ckks.bootstrap import SERIES_TERMS
from fhecompile.ckks.layout import Layout
from fhecompile.ckks.operations import ValueType
from fhecompile.ckks.parameters import MAX_LOG_QP, MAX_PRIME_BITS, Parameters
from fhecompile.plan.container import Arrays
from fhecompile.plan.schema import LayerInfo, ParametersInfo, SeriesInfo


def check_parameters(p: ParametersInfo) -> Parameters:
    """The parameters of a plan; ValueError with the first problem."""
    if p.ring_dimension not in {1 << k for k in range(4, 18)}:
        raise ValueError(f"ring dimension {p.ring_dimension}")
    if not (0 <= p.levels <= 200 and 1 <= p.digits <= p.levels + 1):
        raise ValueError(f"{p.levels} levels and {p.digits} digits")
    if not (15 <= p.prime_bits <= MAX_PRIME_BITS and 15 <= p.first_prime_bits <= MAX_PRIME_BITS):
        raise ValueError(f"primes of {p.prime_bits} and {p.first_prime_bits} bits")
    if p.security_bits not in MAX_LOG_QP:
        raise ValueError(f"security of {p.security_bits} bits")
    b = p.bootstrap
    if b is not None:
        if not (min(b.encode_levels, b.decode_levels) >= 1 and 1 <= b.terms <= SERIES_TERMS[-1]):
            raise ValueError(f"refreshes of {b.encode_levels} and {b.decode_levels} levels")
        if p.first_prime_bits != p.prime_bits + 1:
            raise ValueError("it refreshes values, with a first prime that is not twice as large")
    parameters = p.parameters()
    bootstrap = parameters.bootstrap
    if bootstrap is not None and bootstrap.output_level > parameters.levels:
        raise ValueError(f"it refreshes values to level {bootstrap.output_level} of {p.levels}")
    if not p.insecure and not parameters.is_secure():
        raise ValueError("its parameters are not secure but are declared to be")
    return parameters


def check_series(name: str, info: SeriesInfo, parameters: Parameters, arrays: Arrays) -> None:
    """ValueError when a series is not one that refreshes of these parameters evaluate."""
    bootstrap = parameters.bootstrap
    if bootstrap is None:
        raise ValueError(f"{name} is of refreshes, which its parameters are without")
    coefficients = named_array(arrays, info.coefficients, np.floating)
    if coefficients.ndim != 2 or coefficients.shape[0] != 2:
        raise ValueError(f"{name} has the shape {coefficients.shape}")
    if not 1 <= coefficients.shape[1] - 1 <= bootstrap.terms:
        raise ValueError(f"{name} has {coefficients.shape[1] - 1} terms of {bootstrap.terms}")
    if not np.all(np.isfinite(coefficients)) or not 0 < info.share < 1:
        raise ValueError(f"{name} has numbers out of range")


def check_layer(
    name: str, info: LayerInfo, layouts: Sequence[Layout], types: Sequence[ValueType]
) -> None:
    """ValueError when a layer's errors are none, or its value is not what it says."""
    if not (0 <= info.noise < math.inf and 0 <= (info.fitted or 0.0) < math.inf):
        raise ValueError(f"{name} has an error out of range")
    if not 0 <= info.layout < len(layouts):
        raise ValueError(f"the layout of {name} is number {info.layout} of {len(layouts)}")
    for number in info.values:
        if not 0 <= number < len(types) or types[number].kind != "ciphertext":
            raise ValueError(f"{name} has operation {number} as a value")
    count = layouts[info.layout].ciphertexts
    if info.values and len(info.values) != count:
        raise ValueError(f"{name} has {len(info.values)} ciphertexts of {count}")


def named_array(arrays: Arrays, name: str, kind: type[np.generic]) -> NDArray[Any]:
    """An array of a plan; ValueError when it is missing or of another type."""
    array = arrays.get(name)
    if array is None:
        raise ValueError(f"the array {name} is missing")
    if not np.issubdtype(array.dtype, kind):
        raise ValueError(f"the array {name} has the type {array.dtype}")
    return array
