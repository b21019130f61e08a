"""What the lowering of one ONNX node sees: its operands, its attributes and the graph it adds to.

An ONNX value is either a constant (a numpy array, known at compile time) or a `Tensor`: the
elements of a tensor-graph node in row-major order, seen in some shape. Reshape, Flatten, Squeeze
and the like therefore make no node; a node is added only where another shape is needed by `add`,
`mul` or `poly`, which work on equal shapes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from fhecompile.ckks.linear_map import LinearMap, collapse
from fhecompile.errors import FheCompileError
from fhecompile.frontend import maps
from fhecompile.ir.tensor import (
    Add,
    Affine,
    Function,
    Input,
    Mul,
    Node,
    Output,
    Poly,
    TensorGraph,
)

FloatArray = NDArray[np.float64]
Shape = tuple[int, ...]
Constant = NDArray[Any]
AttributeValue = TypeVar("AttributeValue", int, float, str, tuple[int, ...])
ATTRIBUTE_TYPES = {
    int: ir.AttributeType.INT,
    float: ir.AttributeType.FLOAT,
    str: ir.AttributeType.STRING,
    tuple: ir.AttributeType.INTS,
}


@dataclass(frozen=True)
class Tensor:
    """An encrypted value: the elements of the graph's node `node`, seen in `shape`."""

    node: str
    shape: Shape

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


Value = Tensor | Constant


class UnsupportedNodeError(Exception):
    """A node that this version cannot compile; the message is the reason."""


class GraphBuilder:
    """Adds nodes to a tensor graph under unique names made of `[A-Za-z0-9_.]`."""

    def __init__(self, name: str) -> None:
        self.graph = TensorGraph(name)
        self._views: dict[tuple[str, Shape], str] = {}

    def unique_name(self, wanted: str) -> str:
        """`wanted` in permitted characters, with a number appended when it is taken."""
        base = sanitise(wanted)
        name, number = base, 1
        while name in self.graph.nodes:
            number += 1
            name = f"{base}_{number}"
        return name

    def add(self, node: Node) -> Tensor:
        """Appends the node; returns its value."""
        self.graph.add(node)
        return Tensor(node.name, node.shape)

    def add_input(self, name: str, shape: Shape) -> Tensor:
        """An encrypted input under exactly this name."""
        return self.add(Input(name=name, shape=shape))

    def add_output(self, value: Tensor, label: str) -> None:
        """What the client decrypts, called `label`."""
        name = self.unique_name(f"{label}.output")
        self.add(Output(name=name, inputs=(value.node,), shape=value.shape, label=label))

    def node_in_shape(self, value: Tensor, source: str) -> str:
        """The name of a node that has the elements and the shape of `value`."""
        if self.graph[value.node].shape == value.shape:
            return value.node
        key = (value.node, value.shape)
        if key not in self._views:
            name = self.unique_name(f"{value.node}.reshape")
            identity = maps.scaling(value.shape, value.shape)
            bias = np.zeros((1,) * len(value.shape))
            self.add(
                Affine(
                    name=name,
                    inputs=(value.node,),
                    shape=value.shape,
                    source=source,
                    maps=(identity,),
                    bias=bias,
                )
            )
            self._views[key] = name
        return self._views[key]


def sanitise(name: str) -> str:
    """`/layers/conv1/Conv_output_0` -> `layers.conv1.Conv_output_0`."""
    return re.sub(r"[^A-Za-z0-9_.]", "_", name.strip("/").replace("/", ".")) or "value"


@dataclass
class NodeLowering:
    """One ONNX node being lowered.

    Args:
        node: the node.
        opset: version of the standard operator set.
        inputs: its operands, None for an omitted one.
        builder: the graph under construction.
    """

    node: ir.Node
    opset: int
    inputs: Sequence[Value | None]
    builder: GraphBuilder

    # ------------------------------------------------------------------ names and errors

    @property
    def place(self) -> str:
        """The node's name for messages."""
        return describe(self.node)

    def invalid(self, reason: str) -> NoReturn:
        """The model breaks a rule of ONNX."""
        raise FheCompileError(
            "invalid-model",
            f"{self.node.op_type}: {reason}",
            node=self.place,
            hint="check the file with onnx.checker.check_model and export it again",
        )

    # ------------------------------------------------------------------ operands

    def has_input(self, index: int) -> bool:
        """Whether operand `index` is given."""
        return index < len(self.inputs) and self.inputs[index] is not None

    def value(self, index: int) -> Value:
        """Operand `index`, which ONNX requires."""
        value = self.inputs[index] if index < len(self.inputs) else None
        if value is None:
            self.invalid(f"input {index} is missing")
        return value

    def tensor(self, index: int, role: str = "input") -> Tensor:
        """Operand `index`, which must be encrypted."""
        value = self.value(index)
        if not isinstance(value, Tensor):
            raise UnsupportedNodeError(f"constant {role} beside an encrypted operand")
        return value

    def constant(self, index: int, role: str) -> Constant:
        """Operand `index`, which must be known at compile time."""
        value = self.value(index)
        if isinstance(value, Tensor):
            raise UnsupportedNodeError(f"encrypted {role}")
        return value

    def weights(self, index: int, role: str) -> FloatArray:
        """Constant operand `index` in double precision."""
        value = self.constant(index, role)
        if value.dtype.kind in "OSUc":
            self.invalid(f"{role} is of type {value.dtype}, not of real numbers")
        return np.asarray(value, np.float64)

    # ------------------------------------------------------------------ attributes

    def attribute(self, name: str, default: AttributeValue) -> AttributeValue:
        """An attribute of the default's type, or the default."""
        attribute = self.node.attributes.get(name)
        if attribute is None:
            return default
        kind = ATTRIBUTE_TYPES[type(default)]
        if attribute.type != kind or not isinstance(attribute.value, type(default)):
            self.invalid(f"attribute {name} is not of type {kind.name}")
        return attribute.value

    def integers(self, name: str, default: Sequence[int]) -> tuple[int, ...]:
        """An attribute that is a list of integers."""
        return self.attribute(name, tuple(default))

    def floats(self, name: str, default: float | None = None) -> FloatArray:
        """An attribute that is a list of numbers; the default, if any, where it is missing."""
        attribute = self.node.attributes.get(name)
        if attribute is None and default is not None:
            return np.array([default])
        if attribute is None or attribute.type != ir.AttributeType.FLOATS:
            self.invalid(f"attribute {name} is not of type FLOATS")
        return np.array(attribute.value, np.float64)

    def axes(self, index: int, rank: int) -> tuple[int, ...] | None:
        """Axes from the attribute `axes` or operand `index`, made non-negative; None: not given."""
        if self.has_input(index):
            given = [int(a) for a in self.constant(index, "axes").ravel()]
        elif "axes" in self.node.attributes:
            given = list(self.integers("axes", ()))
        else:
            return None
        if any(not -rank <= a < rank for a in given):
            self.invalid(f"axes {given} of a tensor of rank {rank}")
        return tuple(a % rank for a in given)

    @staticmethod
    def broadcast_shape(*shapes: Shape) -> Shape | None:
        """numpy's broadcast of the shapes; None when they do not fit."""
        try:
            return np.broadcast_shapes(*shapes)
        except ValueError:
            return None

    # ------------------------------------------------------------------ results

    def part(self, suffix: str) -> str:
        """A name for one of several nodes that make the result."""
        return f"{self.node.outputs[0].name or self.place}.{suffix}"

    def _name(self, wanted: str | None = None) -> str:
        return self.builder.unique_name(wanted or self.node.outputs[0].name or self.place)

    def affine(
        self,
        operands: Sequence[tuple[Tensor, LinearMap]],
        shape: Sequence[int],
        bias: NDArray[Any] | float = 0.0,
        name: str | None = None,
    ) -> Tensor:
        """Adds y = sum of maps of the operands + bias."""
        shape = tuple(int(n) for n in shape)
        if 0 in shape:
            raise UnsupportedNodeError(f"result of shape {shape}, which has no elements")
        full = np.asarray(bias, np.float64)
        full = full.reshape((1,) * (len(shape) - full.ndim) + full.shape)
        arrays = [full, *(t.values for _, m in operands for t in m.terms)]
        if not all(np.isfinite(a).all() for a in arrays):
            raise FheCompileError(
                "weights-not-finite",
                f"{self.node.op_type}: its constants give a weight that is NaN or infinite",
                node=self.place,
                hint="look for a division by zero or a negative variance in the exported weights",
            )
        return self.builder.add(
            Affine(
                name=self._name(name),
                inputs=tuple(tensor.node for tensor, _ in operands),
                shape=shape,
                source=self.place,
                maps=tuple(m for _, m in operands),
                bias=collapse(full),
            )
        )

    def expanded(self, value: Tensor, shape: Shape) -> Tensor:
        """The value broadcast to `shape` by an affine selection; itself if it has that shape."""
        if value.shape == shape:
            return value
        if value.size == math.prod(shape):
            return Tensor(value.node, shape)
        repeat = maps.scaling(value.shape, shape)
        return self.affine([(value, repeat)], shape, name=self.part("expand"))

    def add_values(self, a: Tensor, b: Tensor, name: str | None = None) -> Tensor:
        """Adds y = a + b, equal in shape."""
        nodes = tuple(self.builder.node_in_shape(x, self.place) for x in (a, b))
        node = Add(name=self._name(name), inputs=nodes, shape=a.shape, source=self.place)
        return self.builder.add(node)

    def multiply_values(
        self, a: Tensor, b: Tensor, shape: Shape, name: str | None = None
    ) -> Tensor:
        """Adds y = a * b, each of `shape` or a single element."""
        nodes = tuple(
            x.node if x.size == 1 else self.builder.node_in_shape(x, self.place) for x in (a, b)
        )
        return self.builder.add(
            Mul(name=self._name(name), inputs=nodes, shape=shape, source=self.place)
        )

    def function(
        self, function: str, x: Tensor, name: str | None = None, share: FloatArray | float = 1.0
    ) -> Tensor:
        """Adds y = x + share (f(x) - x) for a function of `fhecompile.functions.table`.

        `share` broadcasts to x.
        """
        node = self.builder.node_in_shape(x, self.place)
        return self.builder.add(
            Function(
                name=self._name(name),
                inputs=(node,),
                shape=x.shape,
                source=self.place,
                function=function,
                share=collapse(np.asarray(share, np.float64)),
            )
        )

    def polynomial(self, x: Tensor, coefficients: Sequence[NDArray[Any]]) -> Tensor:
        """Adds y = sum_d coefficients[d] x^d, each of them of the rank of x and broadcast to it."""
        node = self.builder.node_in_shape(x, self.place)
        array = collapse(np.stack(coefficients).astype(np.float64))
        return self.builder.add(
            Poly(
                name=self._name(),
                inputs=(node,),
                shape=x.shape,
                source=self.place,
                coefficients=array,
            )
        )


def describe(node: ir.Node) -> str:
    """The node's name, or its first output's where it has none."""
    return node.name or (node.outputs[0].name if node.outputs else "") or node.op_type
