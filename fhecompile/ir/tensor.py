r"""The tensor graph: what is left of a network once it is linear maps and polynomials.

Every node makes one value, called by the node's name; a value is a real tensor, static in shape.

    input                          the client's tensor
    affine   y = sum_k M_k x_k + b     M_k sparse linear maps on flattened tensors
    poly     y = sum_d c_d x^d         elementwise, coefficients broadcast over the tensor
    chebyshev y = sum_k c_k T_k(x)     the same for Chebyshev polynomials and x in [-1, 1]
    mul      y = x_1 * x_2             elementwise, ciphertext times ciphertext
    add      y = x_1 + x_2             elementwise
    function y = x + s (f(x) - x)      elementwise, f of `fhecompile.functions.table`, s its share:
                                       1, or numbers that broadcast over the tensor
    refresh  y = f(x)                  elementwise, a Fourier series, with many primes again
    output                         what the client decrypts

Multiplicative depth: affine 1, or 0 when the map needs no plaintext product (`is_product_free`);
poly and chebyshev of degree d ceil(log2(d+1)), but 1 for a quadratic in powers, whose leading
coefficient moves into its neighbours, and 0 for x + c; mul 1; add 0. A function has no depth before
a polynomial stands for it; it counts as 0. A refresh starts again at 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fhecompile.ckks.bootstrap import evaluate_series
from fhecompile.ckks.linear_map import LinearMap, collapse
from fhecompile.errors import InternalError

FloatArray = NDArray[np.float64]
Shape = tuple[int, ...]

NEGLIGIBLE = 1e-10  # of what a refresh gives, far below its error


@dataclass(frozen=True, eq=False, kw_only=True)
class Node:
    """What all nodes share.

    Args:
        name: unique, `[A-Za-z0-9_.]+`; also the name of the value.
        inputs: names of the operands.
        shape: shape of the value.
        source: the ONNX nodes it comes from, for messages and the plan's source map.
    """

    name: str
    inputs: tuple[str, ...] = ()
    shape: Shape
    source: str = ""

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def op(self) -> str:
        """The node's kind in the text form."""
        return type(self).__name__.lower()


@dataclass(frozen=True, eq=False, kw_only=True)
class Input(Node):
    """A tensor the client encrypts: one the user gives, or chosen elements of it.

    Args:
        given: name of the tensor the user gives; empty: the node's.
        given_shape: its shape; empty: the node's.
        elements: which of its elements in row-major order, of the node's shape; None: all.
    """

    given: str = ""
    given_shape: Shape = ()
    elements: NDArray[np.int32] | None = None

    def read(self, inputs: Mapping[str, FloatArray]) -> FloatArray:
        """The value (samples, *shape), of tensors the user gives, (samples, ...) each."""
        value = np.asarray(inputs[self.given or self.name], np.float64)
        if self.elements is not None:
            value = value.reshape(len(value), -1)[:, self.elements]
        return value.reshape(len(value), *self.shape)


@dataclass(frozen=True, eq=False, kw_only=True)
class Affine(Node):
    """y = sum_k M_k x_k + bias; `bias` broadcasts to `shape`.

    With `relayout` the value moves to a layout of its own, even where the map is the identity.
    """

    maps: tuple[LinearMap, ...]
    bias: FloatArray
    relayout: bool = False

    def full_bias(self) -> FloatArray:
        """The bias as a flat vector of `size` elements."""
        return np.broadcast_to(self.bias, self.shape).ravel()

    @cached_property
    def sum_weight(self) -> float | None:
        """See `uniform_sum_weight`; scales are planned hundreds of times for one graph."""
        if len(self.maps) != 1 or self.size != 1 or not _has_points(self, self.maps[0].in_size):
            return None
        _, inn, val = self.maps[0].coordinates()
        everything = inn.size == self.maps[0].in_size == np.unique(inn).size
        if everything and np.all(val == val[0]) and val[0] != 0:
            return float(val[0])
        return None

    @cached_property
    def identity_weight(self) -> float | None:
        """See `uniform_identity_weight`."""
        scale = elementwise_scale(self)
        if scale is not None and scale.size == 1 and scale.flat[0] != 0:
            return float(scale.flat[0])
        return None


@dataclass(frozen=True, eq=False, kw_only=True)
class Poly(Node):
    """Elementwise polynomial; `coefficients[d]` (monomial basis) broadcasts to `shape`."""

    coefficients: FloatArray

    @property
    def degree(self) -> int:
        """Highest power with a coefficient."""
        return int(self.coefficients.shape[0]) - 1

    def leading_is_uniform(self) -> bool:
        """Whether one number multiplies the highest power everywhere."""
        leading = self.coefficients[-1]
        return bool(np.all(leading == leading.flat[0]))


@dataclass(frozen=True, eq=False, kw_only=True)
class Chebyshev(Node):
    """Elementwise sum_k coefficients[k] T_k(x) for x in [-1, 1]; they broadcast to `shape`.

    For degrees at which powers of x would cancel. `passes.lower_polynomials` writes it out.
    """

    coefficients: FloatArray

    @property
    def degree(self) -> int:
        """Highest Chebyshev polynomial with a coefficient."""
        return int(self.coefficients.shape[0]) - 1


@dataclass(frozen=True, eq=False, kw_only=True)
class Mul(Node):
    """Elementwise product of two values of equal shape (or one of them a single element)."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Add(Node):
    """Elementwise sum of two values of equal shape."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Function(Node):
    """Elementwise function that is no polynomial; `function` is its name in the table.

    `passes.fit_functions` puts a polynomial in its place. With a share other than 1 the value is
    between x and f(x): a relu with slope a below zero has the share 1 - a, maybe per channel.
    """

    function: str
    share: FloatArray = field(default_factory=lambda: np.ones(()))

    def is_whole(self) -> bool:
        """Whether the share is 1 everywhere."""
        return bool(np.all(self.share == 1.0))

    def shared(self, x: FloatArray, values: FloatArray) -> FloatArray:
        """The node's value where the function's own at x are `values`."""
        return values if self.is_whole() else x + self.share * (values - x)


@dataclass(frozen=True, eq=False, kw_only=True)
class Refresh(Node):
    """A function of its operand x (low..high), maybe x itself, with many primes again.

    Of m = unit x the function is 2 Re sum_j c_j exp(i pi j m); `coefficients` (2, terms + 1) are
    the real and imaginary parts of c. Numbers up to 1 / `unit` may go in and up to 1 / `gain` come
    out. See `fhecompile.ckks.bootstrap`.
    """

    unit: float
    gain: float
    low: float
    high: float
    coefficients: FloatArray

    @property
    def terms(self) -> int:
        """The highest term of the series."""
        return int(self.coefficients.shape[1]) - 1

    def stored_series(self, has_holes: bool) -> tuple[FloatArray, float]:
        """Coefficients for gain y, and what is missing of y: f(0) where holes are to stay zero."""
        at_zero = float(self.value(np.zeros(()))) if has_holes else 0.0
        if abs(self.gain * at_zero) < NEGLIGIBLE:
            at_zero = 0.0
        coefficients = self.gain * self.coefficients
        coefficients[0, 0] -= self.gain * at_zero / 2
        return coefficients, at_zero

    def value(self, x: FloatArray) -> FloatArray:
        """The node's value for its operand's."""
        return evaluate_series(self.coefficients, self.unit * x)


@dataclass(frozen=True, eq=False, kw_only=True)
class Output(Node):
    """What the client decrypts; `label` is the user's name of it."""

    label: str


@dataclass(eq=False)
class TensorGraph:
    """Nodes in topological order, by name."""

    name: str
    nodes: dict[str, Node] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes.values())

    def __getitem__(self, name: str) -> Node:
        return self.nodes[name]

    def add(self, node: Node) -> Node:
        """Appends a node, whose operands must already be there."""
        if node.name in self.nodes:
            raise InternalError(f"the tensor graph already has a node {node.name}")
        for operand in node.inputs:
            if operand not in self.nodes:
                raise InternalError(f"{node.name} uses {operand}, which does not exist yet")
        self.nodes[node.name] = node
        return node

    def inputs(self) -> list[Input]:
        """The input nodes, in order."""
        return [n for n in self if isinstance(n, Input)]

    def given(self) -> dict[str, list[Input]]:
        """The input nodes by the tensor the user gives, in order."""
        found: dict[str, list[Input]] = {}
        for node in self.inputs():
            found.setdefault(node.given or node.name, []).append(node)
        return found

    def outputs(self) -> list[Output]:
        """The output nodes, in order."""
        return [n for n in self if isinstance(n, Output)]

    def users(self) -> dict[str, list[Node]]:
        """Per value the nodes that read it (a node that reads it twice is listed once)."""
        users: dict[str, list[Node]] = {name: [] for name in self.nodes}
        for node in self:
            for operand in dict.fromkeys(node.inputs):
                users[operand].append(node)
        return users

    def rebuilt(self, nodes: Iterable[Node]) -> TensorGraph:
        """A graph of the given nodes, sorted topologically, dead nodes dropped."""
        pool = {n.name: n for n in nodes}
        live: dict[str, Node] = {}
        roots = [n for n in pool.values() if isinstance(n, Input | Output)]
        for root in roots:
            stack: list[tuple[str, bool]] = [(root.name, False)]
            while stack:
                name, expanded = stack.pop()
                if name in live:
                    continue
                if expanded:
                    live[name] = pool[name]
                    continue
                stack.append((name, True))
                stack.extend((o, False) for o in reversed(pool[name].inputs) if o not in live)
        return TensorGraph(self.name, live)


def replace_input(node: Node, old: str, new: str) -> Node:
    """The node with every use of `old` renamed to `new`."""
    return replace(node, inputs=tuple(new if name == old else name for name in node.inputs))


def uniform_sum_weight(node: Affine) -> float | None:
    """w if the node is y = w * (sum of all elements of its one input) + b, else None."""
    return node.sum_weight


def uniform_identity_weight(node: Affine) -> float | None:
    """w if the node is y = w * x + b for its one input x, in x's element order, else None."""
    return node.identity_weight


def elementwise_scale(node: Node) -> FloatArray | None:
    """s if the node is y = s * x + b elementwise for its one input x, in x's layout.

    s broadcasts to the shape.
    """
    if not isinstance(node, Affine) or len(node.maps) != 1 or node.relayout:
        return None
    return map_elementwise_scale(node.maps[0], node.shape)


def map_elementwise_scale(m: LinearMap, shape: Shape) -> FloatArray | None:
    """The diagonal of a diagonal map, reduced to what broadcasts to `shape`; None otherwise."""
    if m.in_size != m.out_size or sum(t.size for t in m.terms) > m.out_size:
        return None
    out, inn, val = m.coordinates()
    if not np.array_equal(out, inn):
        return None
    scale = np.zeros(m.out_size)
    np.add.at(scale, out, val)
    return collapse(scale.reshape(shape))


def _has_points(node: Affine, points: int) -> bool:
    """Cheap test before coordinates are listed: whether the maps iterate over `points` points."""
    return sum(t.size for m in node.maps for t in m.terms) == points


def is_product_free(node: Affine) -> bool:
    """Whether the map is done with rotations, additions and a relabelled scale alone."""
    return uniform_sum_weight(node) is not None or uniform_identity_weight(node) is not None


def node_depth(node: Node) -> int:
    """Multiplicative depth the node adds to its deepest operand."""
    if isinstance(node, Affine):
        return 0 if is_product_free(node) else 1
    if isinstance(node, Mul):
        return 1
    if isinstance(node, Poly):
        if node.degree <= 1:
            return 0 if node.degree == 0 or node.leading_is_uniform() else 1
        return 1 if node.degree == 2 else math.ceil(math.log2(node.degree + 1))
    if isinstance(node, Chebyshev):
        return math.ceil(math.log2(node.degree + 1))
    return 0
