r"""Predicts the error of a network's outputs from its calibration data, before any layout exists.

The tensor graph is evaluated with Gaussian noise added to every value, and compared with the exact
evaluation (see `fhecompile.ckks.noise` for the standard deviations):

    after an affine node   encode_error / 2^a * sqrt(2 * fan-in * mean square of the operands)
                           (one rounded plaintext per product; complex packing doubles it)
                         + rescale_error / 2^s
    after poly, mul        rescale_error / 2^s, as if a rescale followed every product
    after a refresh        refresh_error / unit in x before the function, / gain behind it
    after an input         encrypt_error / 2^s; none where only maps with products read it, for
                           which it is encrypted at a scale where the error does not count

A rescale divides by a prime where the scales of the plan have a power of two. That multiplies a
value by a number next to 1, which is another one at every layer: 1 + delta or 1 - delta, drawn for
every node and sample.

The four are evaluated apart, so that any scales and primes can be judged.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fhecompile.ckks import noise
from fhecompile.ir.evaluate import apply_node, evaluate
from fhecompile.ir.tensor import (
    Affine,
    Function,
    Input,
    Mul,
    Node,
    Output,
    Poly,
    Refresh,
    TensorGraph,
    is_product_free,
)

FloatArray = NDArray[np.float64]
DELTA = 2.0**-24
REFRESHED = 2.0**-16
PACKING_FACTOR = 2.0
DRAWS = 64  # errors of an output its standard deviation is estimated from, at least


@dataclass(frozen=True)
class PredictedErrors:
    """Rms errors of the outputs.

    Args:
        constants: from their rounding.
        noise: from that of ciphertexts.
        primes: from delta = 1, if errors went on growing in proportion.
        refreshes: from errors of m of 1 in refreshes, likewise; 0 where there are none.
        output_range: largest magnitude of an output.
    """

    constants: float
    noise: float
    primes: float
    refreshes: float
    output_range: float


@dataclass(frozen=True)
class _Units:
    """Sizes of the last bit of constants and activations, delta, and of m's error; 0: none."""

    constants: float = 0.0
    activations: float = 0.0
    primes: float = 0.0
    refreshes: float = 0.0


def predict_error(
    graph: TensorGraph,
    inputs: Mapping[str, FloatArray],
    ring_dimension: int,
    activation_bits: float,
    constant_bits: float,
) -> PredictedErrors:
    """The errors of the largest output at these scales."""
    smallest = min((node.size for node in graph.outputs()), default=1)
    samples = len(next(iter(inputs.values()), ()))
    repeats = math.ceil(DRAWS / max(1, samples * smallest))
    exact = {name: np.concatenate([y] * repeats) for name, y in evaluate(graph, inputs).items()}
    inputs = {name: np.concatenate([x] * repeats) for name, x in inputs.items()}
    largest = max((float(np.abs(y).max(initial=0.0)) for y in exact.values()), default=0.0)

    def error(units: _Units) -> float:
        noisy = _evaluate_noisy(graph, inputs, ring_dimension, units)
        squares = [np.mean((noisy[name] - y) ** 2) for name, y in exact.items()]
        return float(np.sqrt(max(squares, default=0.0)))

    return PredictedErrors(
        error(_Units(constants=2.0**-constant_bits)),
        error(_Units(activations=2.0**-activation_bits)),
        error(_Units(primes=DELTA)) / DELTA,
        error(_Units(refreshes=REFRESHED)) / REFRESHED if _refreshes(graph) else 0.0,
        largest,
    )


def _evaluate_noisy(
    graph: TensorGraph,
    inputs: Mapping[str, FloatArray],
    ring_dimension: int,
    units: _Units,
) -> dict[str, FloatArray]:
    """Outputs by label."""
    generator = np.random.default_rng(0)
    users = graph.users()
    encode = noise.encode_error(ring_dimension) * units.constants
    rescale = noise.rescale_error(ring_dimension) * units.activations
    encrypt = noise.encrypt_error(ring_dimension) * units.activations
    values: dict[str, FloatArray] = {}
    outputs: dict[str, FloatArray] = {}
    for node in graph:
        operands = [values[name] for name in node.inputs]
        if isinstance(node, Input):
            value = node.read(inputs)
        elif isinstance(node, Refresh) and units.refreshes:
            shape = operands[0].shape
            before = generator.normal(0.0, units.refreshes / node.unit, shape)
            after = generator.normal(0.0, units.refreshes / node.gain, shape)
            value = node.value(operands[0] + before) + after
        else:
            value = apply_node(node, operands)
        match node:
            case Input():
                spread = 0.0 if all(map(_multiplies, users[node.name])) else encrypt
            case Affine() if _multiplies(node):
                spread = math.hypot(encode * _reach(node, operands), rescale)
            case Poly() | Mul() | Function():
                spread = rescale
            case _:
                spread = 0.0
        if units.primes and (_multiplies(node) or isinstance(node, Poly | Mul)):
            signs = generator.integers(0, 2, (len(value), *(1,) * (value.ndim - 1))) * 2 - 1
            value = value * (1.0 + units.primes * signs)
        if spread:
            value = value + generator.normal(0.0, spread, value.shape)
        values[node.name] = value
        if isinstance(node, Output):
            outputs[node.label] = value
    return outputs


def _refreshes(graph: TensorGraph) -> bool:
    return any(isinstance(node, Refresh) for node in graph)


def _multiplies(node: Node) -> bool:
    return isinstance(node, Affine) and not is_product_free(node)


def _reach(node: Affine, operands: list[FloatArray]) -> float:
    """The factor of encode_error in the module docstring."""
    squares = sum(
        m.multiply_accumulates() / node.size * float(np.mean(x**2))
        for m, x in zip(node.maps, operands, strict=True)
    )
    return math.sqrt(PACKING_FACTOR * squares)
