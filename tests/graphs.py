"""Builds tensor graphs node by node, and runs parts of the default pipeline on them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fhecompile.ckks.linear_map import LinearMap, dense, diagonal
from fhecompile.frontend.calibration import synthetic_calibration
from fhecompile.functions.fourier import fit_series
from fhecompile.ir.program import Facts, PassManager, Program
from fhecompile.ir.tensor import (
    Add,
    Affine,
    Function,
    Input,
    Mul,
    Node,
    Output,
    Poly,
    Refresh,
    TensorGraph,
)
from fhecompile.ir.tensor_rules import verify
from fhecompile.options import CompileOptions
from fhecompile.pipeline import build_pipeline
from passes import DEFAULT_PIPELINE
from passes.emit_plan import ModelIdentity
from passes.infer_ranges import Calibration

FIXED_SCALES = "activation_bits=35;constant_bits=24"  # options of select_parameters

FloatArray = NDArray[np.float64]
Shape = tuple[int, ...]


class Builder:
    """A tensor graph under construction; every method returns the name of the new value."""

    def __init__(self) -> None:
        self.graph = TensorGraph("g")

    def input(self, name: str, *shape: int) -> str:
        return self.graph.add(Input(name=name, shape=shape)).name

    def affine(
        self,
        name: str,
        maps: Mapping[str, LinearMap | FloatArray],
        shape: Shape | None = None,
        bias: Any = 0.0,
    ) -> str:
        """Sum of `maps` of their operands; a matrix stands for the dense map."""
        linear = tuple(m if isinstance(m, LinearMap) else dense(m) for m in maps.values())
        node = Affine(
            name=name,
            inputs=tuple(maps),
            shape=shape or (1, linear[0].out_size),
            maps=linear,
            bias=np.asarray(bias, np.float64),
        )
        return self.graph.add(node).name

    def scaled(self, name: str, x: str, scale: Any, shift: Any = 0.0) -> str:
        """The elementwise scale * x + shift."""
        shape = self.graph[x].shape
        return self.affine(name, {x: diagonal(np.asarray(scale, float), shape)}, shape, shift)

    def poly(self, name: str, x: str, *coefficients: Any) -> str:
        """Coefficients from the constant up, each broadcasting over the last axis of x."""
        shape = self.graph[x].shape
        rows = np.broadcast_arrays(*(np.asarray(c, np.float64) for c in coefficients))
        table = np.stack(rows)
        table = table.reshape(len(table), *(1,) * (len(shape) - table.ndim + 1), *table.shape[1:])
        return self.graph.add(Poly(name=name, inputs=(x,), shape=shape, coefficients=table)).name

    def function(self, name: str, x: str, function: str) -> str:
        node = Function(name=name, inputs=(x,), shape=self.graph[x].shape, function=function)
        return self.graph.add(node).name

    def refresh(self, name: str, x: str, radius: float = 1.0, terms: int = 13) -> str:
        """Refreshes x, of at most the radius, as it is."""
        share = 0.5
        c = radius * fit_series(lambda u: u, -1.0, 1.0, terms, 1.0, share=share).coefficients
        node = Refresh(
            name=name,
            inputs=(x,),
            shape=self.graph[x].shape,
            unit=share / radius,
            gain=share / radius,
            low=-radius,
            high=radius,
            coefficients=np.stack([c.real, c.imag]),
        )
        return self.graph.add(node).name

    def mul(self, name: str, a: str, b: str) -> str:
        return self.graph.add(Mul(name=name, inputs=(a, b), shape=self.graph[a].shape)).name

    def sum(self, name: str, a: str, b: str) -> str:
        return self.graph.add(Add(name=name, inputs=(a, b), shape=self.graph[a].shape)).name

    def output(self, *values: str) -> TensorGraph:
        """The verified graph with these outputs, called after their values."""
        for value in values:
            shape = self.graph[value].shape
            self.graph.add(Output(name=f"out.{value}", inputs=(value,), shape=shape, label=value))
        verify(self.graph)
        return self.graph


def matrix(rows: int, columns: int, seed: int = 0) -> FloatArray:
    """Normally distributed entries that keep the size of what they multiply."""
    return np.random.default_rng(seed).normal(size=(rows, columns)) / math.sqrt(columns)


def of_kind(graph: TensorGraph, *kinds: type[Node]) -> list[Any]:
    """The nodes of these kinds, in order."""
    return [node for node in graph if isinstance(node, kinds)]


def pipeline_until(
    last: str, options: Mapping[str, str] | None = None, pipeline: str = DEFAULT_PIPELINE
) -> str:
    """A pipeline as far as the pass `last`, passes changed by `options`."""
    names = pipeline.split(",")
    end = len(names) - names[::-1].index(last)
    changed = options or {}
    return ",".join(f"{n}{{{changed[n]}}}" if n in changed else n for n in names[:end])


def run_passes(
    graph: TensorGraph,
    last: str,
    passes: Mapping[str, str] | None = None,
    facts: Sequence[Any] = (),
    pipeline: str = DEFAULT_PIPELINE,
    **options: Any,
) -> Program:
    """The program after a pipeline up to `last`, calibrated on [-1, 1]."""
    given = [ModelIdentity("small", "0" * 64), Calibration(synthetic_calibration(graph)), *facts]
    program = Program(graph, CompileOptions(**options), Facts(given))
    return PassManager(build_pipeline(pipeline_until(last, passes, pipeline))).run(program)
