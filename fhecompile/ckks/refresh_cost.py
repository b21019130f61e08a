r"""Predicts how long a refresh takes, from the steps of `fhecompile.ckks.cost_steps`.

CoeffsToSlots and SlotsToCoeffs are products of sparse matrices, one per level. The one of radix 2^r
has D = 2^(r+1) - 1 diagonals, in b babies, about 2 sqrt(D), and g giants, hoisted twice:

    raise + (b - 1) key + (g - 1) (lower + raise + key) + lower + D multiply + rescale

in the basis QP, from the levels of the new modulus on and on the last primes respectively. The
exponential is a Chebyshev series in `EXPONENTIAL_PRODUCTS` products and squarings, a Fourier series
of n terms takes about 2 sqrt(2 n) of its powers; both at every level in between alike.
"""

from __future__ import annotations

import math

from fhecompile.ckks.bootstrap import Bootstrap, split_stage, stage_bits
from fhecompile.ckks.cost_steps import ring_unit, step_primes
from fhecompile.ckks.cost_table import BUILT_IN, CostTable
from fhecompile.ckks.parameters import WORD_BYTES, Parameters

EXPONENTIAL_PRODUCTS = 22


def refresh_seconds(
    parameters: Parameters, slots: int, terms: int, table: CostTable = BUILT_IN
) -> float:
    """Predicted seconds of one refresh on one thread.

    Args:
        parameters: with a bootstrap.
        slots: of the values that are refreshed.
        terms: the highest one of the series.
        table: costs of the steps.
    """
    b = _bootstrap(parameters)
    milliseconds = 0.0
    for level, bits in enumerate(stage_bits(slots, b.encode_levels)):
        milliseconds += _stage(bits, level, parameters, table)
    first = parameters.levels - b.operand_primes
    for level, bits in enumerate(stage_bits(slots, b.decode_levels)):
        milliseconds += _stage(bits, first + level, parameters, table)
    products = EXPONENTIAL_PRODUCTS + math.ceil(2.0 * math.sqrt(2.0 * terms))
    levels = range(b.encode_levels, b.output_level)
    per_level = products / len(levels)
    for level in levels:
        product = step_primes("mul", level, parameters) | {"rescale": parameters.levels + 1 - level}
        milliseconds += per_level * sum(table.milliseconds[s] * n for s, n in product.items())
    return milliseconds * ring_unit(parameters) / 1000.0


def refresh_plaintext_bytes(parameters: Parameters, slots: int) -> int:
    """Memory of the encoded diagonals."""
    b = _bootstrap(parameters)
    primes = 0
    for level, bits in enumerate(stage_bits(slots, b.encode_levels)):
        primes += _diagonals(bits) * (parameters.levels + 1 - level + parameters.special_primes)
    for bits in stage_bits(slots, b.decode_levels):
        primes += _diagonals(bits) * (b.operand_primes + 1 + parameters.special_primes)
    return primes * parameters.ring_dimension * WORD_BYTES


def _bootstrap(parameters: Parameters) -> Bootstrap:
    if parameters.bootstrap is None:
        raise ValueError("the parameters are without refreshes")
    return parameters.bootstrap


def _diagonals(bits: int) -> int:
    return int(2 ** (bits + 1) - 1)


def _stage(bits: int, level: int, parameters: Parameters, table: CostTable) -> float:
    """Milliseconds of one level of a transform, before the ring's unit."""
    step = step_primes("rotate", level, parameters)
    cost = {name: table.milliseconds[name] * n for name, n in step.items()}
    babies, giants = split_stage(bits)
    left = parameters.levels + 1 - level
    extended = left + parameters.special_primes
    total = cost["raise"] + (babies - 1) * cost["key"] + cost["lower"]
    total += (giants - 1) * (cost["lower"] + cost["raise"] + cost["key"])
    total += _diagonals(bits) * 2 * extended * (table.milliseconds["multiply"] / 2)
    return total + left * table.milliseconds["rescale"]
