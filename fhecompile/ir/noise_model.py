r"""Predicts the error of a network's outputs from its calibration data, before any layout exists.

The tensor graph is evaluated with Gaussian noise added to every value, and compared with the exact
evaluation (see `fhecompile.ckks.noise` for the standard deviations):

    after an affine node   encode_error / 2^a * sqrt(2 * fan-in * mean square of the operands)
                           (one rounded plaintext per product; complex packing doubles it)
                         + rescale_error / 2^s
    after poly and mul     rescale_error / 2^s when a rescale follows

Constant rounding and ciphertext noise are evaluated apart, so that any scales can be judged.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from fhecompile.ckks import noise
from fhecompile.ir.evaluate import apply_node, evaluate
from fhecompile.ir.tensor import Affine, Input, Node, Output, TensorGraph, is_product_free

FloatArray = NDArray[np.float64]
PACKING_FACTOR = 2.0


def predict_error(
    graph: TensorGraph,
    inputs: Mapping[str, FloatArray],
    ring_dimension: int,
    activation_bits: float,
    constant_bits: float,
) -> tuple[float, float, float]:
    """(rms error from constants, rms error from ciphertext noise, largest output magnitude)."""
    exact = evaluate(graph, inputs)
    largest = max((float(np.abs(y).max(initial=0.0)) for y in exact.values()), default=0.0)
    found = []
    for constants, ciphertexts in ((True, False), (False, True)):
        noisy = _evaluate_noisy(
            graph,
            inputs,
            noise.encode_error(ring_dimension) / 2**constant_bits if constants else 0.0,
            noise.rescale_error(ring_dimension) / 2**activation_bits if ciphertexts else 0.0,
        )
        squares = [np.mean((noisy[name] - y) ** 2) for name, y in exact.items()]
        found.append(float(np.sqrt(max(squares, default=0.0))))
    return found[0], found[1], largest


def _evaluate_noisy(
    graph: TensorGraph, inputs: Mapping[str, FloatArray], encode: float, rescale: float
) -> dict[str, FloatArray]:
    generator = np.random.default_rng(0)
    values: dict[str, FloatArray] = {}
    outputs: dict[str, FloatArray] = {}
    for node in graph:
        if isinstance(node, Input):
            x = np.asarray(inputs[node.name], np.float64)
            values[node.name] = x.reshape(x.shape[0], *node.shape)
            continue
        operands = [values[name] for name in node.inputs]
        value = apply_node(node, operands)
        spread = _spread(node, operands, encode, rescale)
        if spread:
            value = value + generator.normal(0.0, spread, value.shape)
        values[node.name] = value
        if isinstance(node, Output):
            outputs[node.label] = value
    return outputs


def _spread(node: Node, operands: list[FloatArray], encode: float, rescale: float) -> float:
    if not isinstance(node, Affine) or is_product_free(node):
        return 0.0
    squares = sum(
        m.multiply_accumulates() / node.size * float(np.mean(x**2))
        for m, x in zip(node.maps, operands, strict=True)
    )
    return math.hypot(encode * math.sqrt(PACKING_FACTOR * squares), rescale)
