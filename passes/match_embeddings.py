r"""Compares embeddings: one number in the place of two of them, or a template to be stored.

With `--match distance` and `--match cosine` a sample of the plan is a pair (x_1, x_2). The network
is applied to both, side by side in the same ciphertexts, and of its outputs e_1 and e_2 is
computed, minus the threshold t,

    distance   sum_k (e_1k - e_2k)^2 - t
    cosine     sum_k (e_1k / |e_1|) (e_2k / |e_2|) - t

The factors 1/sqrt(|e_i|^2) are functions that `fit_functions` replaces by polynomials on the
calibrated range, of e_i divided by a power of two about as long as they are, so that noise is as
small beside the factors as beside other values. Where |e_i|^2 is 1 on the calibration data, up to
the precision asked for, the network normalises itself and no factor is needed. A sum over all
elements takes rotations and no product, and leaves the same number in every slot: whoever decrypts
sees it and nothing else of the embeddings.

With `--match gallery` a sample is one x as before, and the output the unit vector e / |e| as a
template (`fhecompile.ckks.gallery`), which the server stores and compares without the client.

Calibration data are samples of the network; pairs are made of neighbours, and of the first with
itself, which is what equal faces look like.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fhecompile.ckks import linear_map
from fhecompile.ckks.linear_map import LinearMap, LinearTerm
from fhecompile.errors import FheCompileError
from fhecompile.ir.evaluate import evaluate
from fhecompile.ir.program import Pass, PassResult, Program
from fhecompile.ir.tensor import Affine, Function, Mul, Node, Output, Poly, TensorGraph
from passes.batch_samples import stack_samples
from passes.infer_ranges import Calibration, spread_samples

SCORE, TEMPLATE = "score", "template"
MOST_SAMPLES = 16  # on which the lengths are looked at
SPARE_BITS = 2  # of the precision asked for: a length this near to 1 needs no factor


@dataclass(frozen=True)
class MatchEmbeddings(Pass):
    """See the module docstring."""

    needs: ClassVar[tuple[type, ...]] = (Calibration,)

    def run(self, program: Program) -> PassResult:
        options, calibration = program.options, program.facts[Calibration]
        if not options.match:
            return PassResult(program, False)
        outputs = program.graph.outputs()
        if len(outputs) != 1:
            raise FheCompileError(
                "match-outputs",
                f"matching needs a model with one output, this one has {len(outputs)}",
                node=", ".join(output.label for output in outputs),
                hint="export the embedding alone",
            )
        lengths = _squared_lengths(program)
        error = max(abs(lengths[0] - 1), abs(lengths[1] - 1))
        are_units = error <= 2.0 ** -(options.precision_bits + SPARE_BITS)
        length = 0.0 if are_units else 2.0 ** round(math.log2(math.prod(lengths)) / 4)
        remark = f"{options.match}" if options.match == "gallery" else f"{options.match} of pairs"
        if options.match != "distance" and not are_units:
            remark += f", divided by lengths whose squares are {lengths[0]:.4g} .. {lengths[1]:.4g}"
        if options.match == "gallery":
            _check_vector(outputs[0])
            graph = _Builder(program.graph, 1).template(length)
            return PassResult(replace(program, graph=graph), True, (remark,))
        builder = _Builder(stack_samples(program.graph, 2), 2)
        score = builder.distance() if options.match == "distance" else builder.cosine(length)
        graph = builder.finish(score, options.threshold)
        inputs = {name: _pairs(x) for name, x in calibration.inputs.items()}
        after = replace(program, graph=graph).having(replace(calibration, inputs=inputs))
        return PassResult(after, True, (remark,))


def _check_vector(output: Output) -> None:
    if max(output.shape) == output.size > 1:
        return
    shape = " x ".join(map(str, output.shape))
    raise FheCompileError(
        "match-outputs",
        f"a template is a vector, the output {output.label} has the shape {shape}",
        hint="export an embedding with one axis longer than 1",
    )


def _pairs(samples: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, 2, *shape): the first sample with itself, then every one with the next."""
    second = np.roll(samples, -1, axis=0)
    pairs = np.stack([samples, second], axis=1)
    same = np.stack([samples[:1], samples[:1]], axis=1)
    return np.concatenate([same, pairs[: len(samples) - 1]])


def _squared_lengths(program: Program) -> tuple[float, float]:
    """The least and the largest squared length of an output on the calibration data."""
    samples = program.facts[Calibration].inputs
    inputs = {name: x[spread_samples(len(x), MOST_SAMPLES)] for name, x in samples.items()}
    (values,) = evaluate(program.graph, inputs).values()
    squares = np.sum(values.reshape(len(values), -1) ** 2, axis=1)
    return float(squares.min()), float(squares.max())


def _sum(size: int) -> LinearMap:
    term = LinearTerm(np.ones(1), np.zeros(1, np.int32), np.arange(size, dtype=np.int32))
    return LinearMap((term,), 1, size)


class _Builder:
    """Puts nodes behind the output of a graph whose samples are `count` of the network's."""

    def __init__(self, graph: TensorGraph, count: int) -> None:
        self.graph = graph
        (self.output,) = graph.outputs()
        self.embeddings = graph[self.output.inputs[0]]
        self.size = self.embeddings.size // count  # elements of one embedding
        self.nodes: dict[str, Node] = dict(graph.nodes)

    def distance(self) -> Node:
        first, second = self._halves()
        minus = linear_map.scale_outputs(second, -np.ones(self.size))
        difference = self._affine("difference", self.embeddings, linear_map.add([first, minus]))
        return self._sum("distance", self._square(difference))

    def cosine(self, length: float) -> Node:
        """The cosine of embeddings about this long; 0: of length 1, up to what is asked for."""
        one, other = (
            self._unit(name, self.embeddings, half, length)
            for name, half in zip(("first", "second"), self._halves(), strict=True)
        )
        return self._sum("cosine", self._product("products", one, other))

    def template(self, length: float) -> TensorGraph:
        """The graph whose one output is the unit vector; `length` as above."""
        unit = self.embeddings
        if length:
            unit = self._unit("embedding", unit, linear_map.identity(self.size), length)
        # To where templates are compared, which is not where the network makes embeddings cheaply.
        moved = Affine(
            name=f"{TEMPLATE}.moved",
            inputs=(unit.name,),
            shape=unit.shape,
            maps=(linear_map.identity(unit.size),),
            bias=np.zeros(()),
            relayout=True,
        )
        return self._output(self._add(moved), TEMPLATE)

    def finish(self, score: Node, threshold: float) -> TensorGraph:
        """The graph whose one output is the score minus the threshold."""
        if threshold:
            one = linear_map.identity(1)
            score = self._affine("minus_threshold", score, one, bias=-threshold)
        return self._output(score, SCORE)

    def _output(self, x: Node, label: str) -> TensorGraph:
        del self.nodes[self.output.name]
        self._add(Output(name=f"{label}.output", inputs=(x.name,), shape=x.shape, label=label))
        return self.graph.rebuilt(self.nodes.values())

    def _halves(self) -> tuple[LinearMap, LinearMap]:
        """Maps from both embeddings to the first and to the second."""
        elements = np.arange(self.size)
        return (
            linear_map.selection(elements, 2 * self.size),
            linear_map.selection(elements + self.size, 2 * self.size),
        )

    def _unit(self, name: str, x: Node, m: LinearMap, length: float) -> Node:
        """The unit vector in the direction of a map of x, which is about `length` long."""
        if not length:
            return self._affine(name, x, m)
        x = self._affine(name, x, linear_map.scale_outputs(m, np.full(m.out_size, 1 / length)))
        total = self._sum(f"{name}.length", self._square(x))
        inverse = self._add(
            Function(
                name=f"{total.name}.inverse",
                inputs=(total.name,),
                shape=(1,),
                function="inverse_sqrt",
            )
        )
        return self._product(f"{name}.unit", x, inverse)

    def _square(self, x: Node) -> Node:
        squares = np.array([0.0, 0.0, 1.0]).reshape(-1, *(1,) * len(x.shape))
        name = f"{x.name}.squares"
        return self._add(Poly(name=name, inputs=(x.name,), shape=x.shape, coefficients=squares))

    def _product(self, name: str, x: Node, y: Node) -> Node:
        return self._add(Mul(name=f"{SCORE}.{name}", inputs=(x.name, y.name), shape=x.shape))

    def _sum(self, name: str, x: Node) -> Node:
        """All elements summed: rotations without a product, and every slot holds the sum."""
        return self._affine(name, x, _sum(x.size))

    def _affine(self, name: str, x: Node, m: LinearMap, bias: float = 0.0) -> Node:
        """A map of a value, composed with the map that makes it if that is the network's last."""
        inputs: tuple[str, ...] = (x.name,)
        maps: tuple[LinearMap, ...] = (m,)
        offset = np.full((m.out_size,), bias)
        if isinstance(x, Affine) and x is self.embeddings:
            inputs = x.inputs
            maps = tuple(linear_map.compose(m, inner) for inner in x.maps)
            offset = offset + m.apply(x.full_bias()[None])[0]
        shape = x.shape if m.out_size == x.size else (m.out_size,)
        return self._add(
            Affine(
                name=f"{SCORE}.{name}",
                inputs=inputs,
                shape=shape,
                maps=maps,
                bias=offset.reshape(shape),
            )
        )

    def _add(self, node: Node) -> Node:
        self.nodes[node.name] = node
        return node
