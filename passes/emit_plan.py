"""Writes the slot graph and its constants as a plan (in memory; the caller saves it)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fhecompile.ckks.layout import Layout
from fhecompile.ckks.parameters import Parameters
from fhecompile.errors import InternalError
from fhecompile.ir.depth import measure_depth
from fhecompile.ir.program import Pass, PassResult, Program
from fhecompile.ir.tensor import Affine, Input, Node, Output, Shape
from fhecompile.plan import Plan, schema
from fhecompile.version import __version__
from passes.assign_layouts import Layouts
from passes.infer_ranges import Calibration, Ranges
from passes.predict_precision import LayerErrors
from passes.schedule_operations import MemoryPrediction
from passes.select_parameters import ScaleChoice
from passes.share_rotations import RotationKeys


@dataclass(frozen=True)
class ModelIdentity:
    """Name and SHA-256 of the model file."""

    name: str
    sha256: str


@dataclass(frozen=True)
class EmitPlan(Pass):
    """See the module docstring."""

    needs: ClassVar[tuple[type, ...]] = (
        ModelIdentity,
        Parameters,
        Layouts,
        Ranges,
        Calibration,
        ScaleChoice,
        RotationKeys,
        MemoryPrediction,
        LayerErrors,
    )
    gives: ClassVar[tuple[type, ...]] = (Plan,)

    def run(self, program: Program) -> PassResult:
        plan = _Emitter(program).plan()
        try:
            plan.validate()
        except ValueError as error:
            raise InternalError(f"the plan is not valid: {error}") from error
        size = sum(array.nbytes for array in plan.arrays.values())
        return PassResult(program.having(plan), True, (f"{size / 2**20:.1f} MiB of constants",))


class _Emitter:
    """Collects layouts and arrays while the tables are written; equal ones are stored once."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.arrays: dict[str, NDArray[Any]] = {}
        self.layouts: dict[str, tuple[int, Layout]] = {}

    def plan(self) -> Plan:
        program, graph = self.program, self.program.slot_graph()
        facts = program.facts
        parameters, keys = facts[Parameters], facts[RotationKeys]
        layers = {node.name: k for k, node in enumerate(program.graph)}
        number = self.number = {node.id: k for k, node in enumerate(graph)}
        memory, choice, ranges = facts[MemoryPrediction], facts[ScaleChoice], facts[Ranges]
        operations = tuple(
            schema.OperationInfo(
                node.op,
                tuple(number[i] for i in node.inputs),
                node.attributes,
                layers[node.layer],
            )
            for node in graph
        )
        maps = tuple(
            schema.MapInfo(
                layer=layers[constant.layer],
                source=self.layout(constant.diagonal_map.source),
                target=self.layout(constant.diagonal_map.target),
                packing=constant.diagonal_map.packing,
                window=constant.diagonal_map.window,
                copies=constant.diagonal_map.copies,
                terms=tuple(
                    schema.TermInfo(
                        self.array(term.values),
                        self.array(term.out_index),
                        self.array(term.in_index),
                    )
                    for term in constant.diagonal_map.linear_map.terms
                ),
                diagonals=self.array(
                    np.array(
                        [(d.accumulator, d.ciphertext, d.offset) for d in constant.diagonals],
                        np.int32,
                    ).reshape(-1, 3)
                ),
            )
            for constant in graph.maps
        )
        vectors = tuple(
            schema.VectorInfo(self.array(np.asarray(v.values)), self.layout(v.layout))
            for v in graph.vectors
        )
        series = tuple(schema.SeriesInfo(self.array(x.coefficients), x.share) for x in graph.series)
        inputs = tuple(self.input(name, views) for name, views in program.graph.given().items())
        outputs = tuple(self.output(node) for node in program.graph.outputs())
        rows = tuple(self.layer(node, ranges) for node in program.graph)
        identity = facts[ModelIdentity]
        return Plan(
            schema.Program(
                format_version=schema.FORMAT_VERSION,
                producer=f"fhecompile {__version__}",
                model_name=identity.name,
                model_sha256=identity.sha256,
                calibration="synthetic" if facts[Calibration].synthetic else "given",
                parameters=schema.ParametersInfo.of(parameters),
                batch=program.options.batch,
                inputs=inputs,
                outputs=outputs,
                layouts=tuple(
                    schema.LayoutInfo(
                        layout.shape,
                        layout.period,
                        tuple(
                            schema.DigitInfo(d.axis, d.divisor, d.radix, d.place, d.stride)
                            for d in layout.digits
                        ),
                        layout.spill,
                    )
                    for _, layout in self.layouts.values()
                ),
                keys=schema.KeysInfo(
                    keys.offsets,
                    keys.conjugation,
                    any(node.op in ("mul", "square", "refresh") for node in graph),
                    keys.refreshes,
                ),
                maps=maps,
                vectors=vectors,
                series=series,
                layers=rows,
                prediction=schema.PredictionInfo(
                    error=choice.predicted_error,
                    fitted_error=choice.fitted_error,
                    allowed_error=choice.allowed_error,
                    output_range=choice.output_range,
                    peak_bytes=memory.peak_bytes,
                    multiplicative_depth=measure_depth(program.graph).total,
                ),
                operations=operations,
            ),
            self.arrays,
        )

    def layer(self, node: Node, ranges: Ranges) -> schema.LayerInfo:
        macs = sum(m.multiply_accumulates() for m in node.maps) if isinstance(node, Affine) else 0
        errors, made = self.program.facts[LayerErrors], self.program.slot_graph().results
        return schema.LayerInfo(
            node.name,
            node.source,
            node.op,
            ranges.low.get(node.name, 0.0),
            ranges.high.get(node.name, 0.0),
            macs,
            errors.noise[node.name],
            errors.fitted[node.name],
            self.layout_of(node),
            tuple(self.number[i] for i in made.get(node.name, ())),
        )

    def input(self, name: str, nodes: Sequence[Input]) -> schema.InputInfo:
        ranges = self.program.facts[Ranges]
        views = tuple(
            schema.ViewInfo(
                self.layout_of(node),
                "" if node.elements is None else self.array(node.elements.ravel()),
            )
            for node in nodes
        )
        low = min(ranges.low[node.name] for node in nodes)
        high = max(ranges.high[node.name] for node in nodes)
        shape = nodes[0].given_shape or nodes[0].shape
        return schema.InputInfo(name, self.of_sample(shape), views, low, high)

    def output(self, node: Output) -> schema.OutputInfo:
        ranges = self.program.facts[Ranges]
        low, high = ranges.low[node.name], ranges.high[node.name]
        shape = self.of_sample(node.shape)
        return schema.OutputInfo(node.label, shape, self.layout_of(node), low, high)

    def of_sample(self, shape: Shape) -> Shape:
        """The shape of one sample of a batch."""
        return shape[1:] if self.program.options.batch > 1 else shape

    def layout_of(self, node: Node) -> int:
        return self.layout(self.program.facts[Layouts].layout[node.name])

    def layout(self, layout: Layout) -> int:
        return self.layouts.setdefault(str(layout), (len(self.layouts), layout))[0]

    def array(self, array: NDArray[Any]) -> str:
        array = np.ascontiguousarray(array)
        content = hashlib.sha256(array.tobytes()).hexdigest()[:16]
        name = f"{array.dtype.name}.{'x'.join(map(str, array.shape)) or 'scalar'}.{content}"
        self.arrays.setdefault(name, array)
        return name
