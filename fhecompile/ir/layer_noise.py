r"""Predicts the noise of every value of a network whose scales are known.

`fhecompile.ir.noise_model` judges scales before there are any: it takes one scale for all values
and looks at the outputs. Here every value has its own, 2^c after its rescales and 2^r before them,
and the graph is evaluated twice on the same samples, once with Gaussian noise after every
operation (see `fhecompile.ckks.noise` for the standard deviations). The root mean square of the
difference is that of the value's noise:

    input     encrypt_error / 2^c
    affine    of every operand, which rotations read: key_switch_error / 2^c of the operand; packed
              maps take in its imaginary part as well, which holds nothing but noise: that of its
              last operation, and of the rotation
              of constants at 2^a: encode_error / 2^a * sqrt(fan-in * mean square of the operand),
              twice that where maps are packed, whose results are twice the products' real parts
              rescale_error / 2^c, or key_switch_error / 2^r where nothing is rescaled
    sum       of n elements by log n rotations: sqrt(n - 1) key_switch_error / 2^r
    poly      of x^2, or of the product of a mul: key_switch_error / 2^r, rescale_error / 2^c;
              of the linear term's constant: encode_error / 2^(r - c_x) times x
    refresh   refresh_error / unit in x before the function, / gain behind it

A rescale divides by a prime where the scales have a power of two, so that it multiplies the value
by 1 + delta or 1 - delta, drawn for every node and sample: at a given level the sign is known, but
the primes' distances are averages. What a mask leaves in the slots it clears is not in it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from fhecompile.ckks import noise
from fhecompile.ckks.diagonals import Packing
from fhecompile.ckks.parameters import Parameters
from fhecompile.ir.evaluate import apply_node
from fhecompile.ir.scales import ScalePlan, match_scales
from fhecompile.ir.tensor import (
    Add,
    Affine,
    Input,
    Mul,
    Node,
    Poly,
    Refresh,
    TensorGraph,
    is_product_free,
    uniform_sum_weight,
)

FloatArray = NDArray[np.float64]
DRAWS = 64  # errors that a standard deviation is estimated from, at least
MOST_PRODUCTS = 1 << 31  # of all evaluations together, about a second; fewer draws beyond


def predict_layer_noise(
    graph: TensorGraph,
    inputs: Mapping[str, FloatArray],
    scales: ScalePlan,
    parameters: Parameters,
    packing: Mapping[str, Packing],
) -> dict[str, float]:
    """Rms of the noise of every value, by its node's name, in the unit of the value.

    Args:
        graph: the lowered graph.
        inputs: samples by input name, (samples, *shape) each.
        scales: of all its values.
        parameters: ring, primes and digits.
        packing: of affine nodes that are evaluated by products.
    """
    samples = len(next(iter(inputs.values()), ()))
    wanted = math.ceil(DRAWS / max(1, samples * min(node.size for node in graph)))
    affordable = MOST_PRODUCTS // max(1, 2 * samples * _products(graph))
    repeats = max(1, min(wanted, affordable))
    inputs = {name: np.concatenate([x] * repeats) for name, x in inputs.items()}
    model = _Model(graph, scales, parameters, packing)
    rms = {}
    for node, exact, noisy in model.walk(inputs):
        rms[node.name] = float(np.sqrt(np.mean((noisy - exact) ** 2)))
    return rms


class _Model:
    """Adds the noise of each operation to its value."""

    def __init__(
        self,
        graph: TensorGraph,
        scales: ScalePlan,
        parameters: Parameters,
        packing: Mapping[str, Packing],
    ) -> None:
        n, q = parameters.ring_dimension, parameters.prime_bits
        self.graph, self.scales, self.packing = graph, scales, packing
        self.encode, self.rescale = noise.encode_error(n), noise.rescale_error(n)
        self.encrypt = noise.encrypt_error(n)
        self.key_switch = noise.key_switch_error(n, parameters.digits)
        self.refresh = noise.refresh_error(n, q)
        self.parameters = parameters
        self.generator = np.random.default_rng(0)
        self.imaginary: dict[str, float] = {}  # standard deviations of imaginary parts

    def walk(
        self, inputs: Mapping[str, FloatArray]
    ) -> Iterator[tuple[Node, FloatArray, FloatArray]]:
        """Every node with its exact and its noisy value."""
        last_use = {operand: node.name for node in self.graph for operand in node.inputs}
        values: dict[str, tuple[FloatArray, FloatArray]] = {}
        for node in self.graph:
            if isinstance(node, Input):
                exact = node.read(inputs)
                spread = _unscaled(self.encrypt, self.scales.scale[node.name])
                noisy = exact + self._draw(spread, exact)
                self.imaginary[node.name] = spread
            else:
                exact = apply_node(node, [values[name][0] for name in node.inputs])
                noisy = self._noisy(node, [values[name][1] for name in node.inputs])
            values[node.name] = exact, noisy
            yield node, exact, noisy
            for operand in set(node.inputs):
                if last_use[operand] == node.name:
                    del values[operand]

    def _noisy(self, node: Node, operands: list[FloatArray]) -> FloatArray:
        """The node's value of noisy operands, with its own noise."""
        if isinstance(node, Refresh):
            return self._refreshed(node, operands[0])
        if isinstance(node, Affine) and not is_product_free(node):
            operands = [
                x + self._draw(self._rotated(node, name), x)
                for name, x in zip(node.inputs, operands, strict=True)
            ]
        value = self._off_primes(node, apply_node(node, operands))
        spread = self._spread(node, operands)
        if spread:
            self.imaginary[node.name] = spread
            return value + self._draw(spread, value)
        self.imaginary[node.name] = max(self.imaginary[name] for name in node.inputs)
        return value

    def _refreshed(self, node: Refresh, x: FloatArray) -> FloatArray:
        after = self.refresh / node.gain
        self.imaginary[node.name] = after
        return node.value(x + self._draw(self.refresh / node.unit, x)) + self._draw(after, x)

    def _rotated(self, node: Affine, operand: str) -> float:
        """What rotating an operand of a linear map adds to it."""
        turned = _unscaled(self.key_switch, self.scales.scale[operand])
        if self.packing.get(node.name) not in ("pair", "fold"):
            return turned
        return math.hypot(turned, turned, self.imaginary[operand])

    def _spread(self, node: Node, operands: list[FloatArray]) -> float:
        """The noise of a node's own operations."""
        name, scales = node.name, self.scales
        switched = _unscaled(self.key_switch, scales.raw[name])
        rescaled = _unscaled(self.rescale, scales.scale[name])
        match node:
            case Affine() if uniform_sum_weight(node) is not None:
                return switched * math.sqrt(operands[0][0].size - 1)
            case Affine() if not is_product_free(node):
                return math.hypot(
                    self._rounded(node, operands), rescaled if scales.rescales[name] else switched
                )
            case Mul():
                return math.hypot(switched, rescaled if scales.rescales[name] else 0.0)
            case Poly() if node.degree == 2:
                constant = 0.0
                if np.any(node.coefficients[1]):
                    bits = scales.raw[name] - scales.scale[node.inputs[0]]
                    constant = _unscaled(self.encode, bits) * _rms(operands[0])
                return math.hypot(switched, constant, rescaled if scales.rescales[name] else 0.0)
            case Add():
                a, b = ((scales.scale[x], scales.level[x]) for x in node.inputs)
                if any(match_scales(a, b, self.parameters.prime_bits).rescales):
                    return rescaled
        return 0.0

    def _rounded(self, node: Affine, operands: list[FloatArray]) -> float:
        """The error of constants' rounding."""
        packed = self.packing.get(node.name) in ("pair", "fold")
        square = sum(
            m.multiply_accumulates() / node.size * (_rms(x) * 2.0**-bits) ** 2
            for m, x, bits in zip(
                node.maps, operands, self.scales.constants[node.name], strict=True
            )
        )
        return self.encode * math.sqrt(square) * (2.0 if packed else 1.0)

    def _off_primes(self, node: Node, value: FloatArray) -> FloatArray:
        p, level = self.parameters, self.scales.level[node.name]
        dropped = range(level - self.scales.rescales[node.name] + 1, level + 1)
        apart = [noise.prime_distance(p.ring_dimension, p.prime_bits, k) for k in dropped]
        if not apart or isinstance(node, Refresh):
            return value
        shape = (len(value), *(1,) * (value.ndim - 1))
        signs = self.generator.integers(0, 2, shape) * 2 - 1
        return value * (1.0 + math.hypot(*apart) * signs)

    def _draw(self, spread: float, like: FloatArray) -> FloatArray:
        return spread * self.generator.standard_normal(like.shape)


def _unscaled(error: float, scale: float) -> float:
    """An error of scaled integers in the unit of their value."""
    return float(error * 2.0**-scale)


def _rms(x: FloatArray) -> float:
    return float(np.sqrt(np.mean(x**2)))


def _products(graph: TensorGraph) -> int:
    """Of one evaluation of one sample."""
    maps = [m for node in graph if isinstance(node, Affine) for m in node.maps]
    return sum(node.size for node in graph) + sum(t.size for m in maps for t in m.terms)
