"""Whatever layouts, packings and copies are chosen, the plan computes the network.

The search of `assign_layouts` is replaced by one that takes any of the candidates it compares.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from random import Random

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fhecompile.ckks.diagonals import Packing
from fhecompile.ckks.slot_mask import mask_leak
from fhecompile.frontend import import_model
from fhecompile.ir.evaluate import evaluate
from fhecompile.ir.program import PassManager, Program
from fhecompile.ir.tensor import Affine, Node, TensorGraph, is_product_free
from fhecompile.pipeline import build_pipeline
from fhecompile.plan import Plan
from passes import DEFAULT_PIPELINE, assign_layouts
from passes.assign_layouts import AssignLayouts, Layouts
from passes.assign_layouts import _State as State
from runtime.session import InferenceSession
from tests.graphs import FIXED_SCALES, run_passes
from tests.networks import RandomNetwork
from tests.support import Network, random_inputs, relative_error, run_slots

Choose = Callable[[Node, list[State]], State]

RINGS = [64, 128, 256, 512]  # slots per ciphertext are half of it
PRECISION = 10.0
_, REST = DEFAULT_PIPELINE.split(",assign_layouts,")


def kinds(node: Node, states: list[State]) -> list[list[State]]:
    """The states by what they chose for a node, so that what few layouts allow is not rare."""
    found: dict[tuple[object, ...], list[State]] = {}
    for state in states:
        chosen = state.packing.get(node.name), state.copies.get(node.name)
        found.setdefault((state.layout[node.name].spill, *chosen), []).append(state)
    return list(found.values())


class NoLayoutLeftError(Exception):
    """A value that shares its layout cannot be made in it."""


class AnyChoice(assign_layouts._Search):
    """Takes what `choose` takes of all the states after each node."""

    def __init__(self, options: AssignLayouts, program: Program, *, choose: Choose) -> None:
        super().__init__(options, program)
        self.choose = choose

    def run(self) -> State:
        state = State()
        for node in self.graph:
            states = [state]
            if node.name not in state.layout:
                found = self._candidates(node, state)
                states = [self._assigned(state, node, layout) for layout in found]
            ways = [way for s in states for way in self._ways(node, s)]
            if not ways:
                raise NoLayoutLeftError
            state = self.choose(node, ways)
        return state

    def _ways(self, node: Node, state: State) -> list[State]:
        """The state with every packing and all copies that apply."""
        after = self._lowered(node, state)
        if not isinstance(node, Affine) or is_product_free(node):
            return [after]
        target = state.layout[node.name]
        packings: list[Packing] = ["real"]
        if target.is_complex:
            packings = ["direct"]
        elif self.options.complex:
            packings += ["fold", "pair"][: 2 - target.ciphertexts % 2]  # type: ignore[list-item]
        found = []
        for packing in packings:
            applying = []
            for k, name in enumerate(node.inputs):
                source = state.layout[name]
                copies = [0, *self._copies(source, self._may_clear(name, state))]
                applying.append(
                    [
                        copy
                        for copy in copies
                        if self.sizes.measure(node.maps[k], source, target, packing, copy)
                        is not None
                    ]
                )
            found += [
                replace(
                    after,
                    packing={**state.packing, node.name: packing},
                    copies={**state.copies, node.name: copies},
                )
                for copies in itertools.product(*applying)
            ]
        return found


def compiled(program: Program, choose: Choose, options: str = "") -> Program:
    """The program lowered to a plan with the layouts that `choose` takes."""
    passes = build_pipeline(f"assign_layouts{{{options}}},{REST}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assign_layouts, "_Search", partial(AnyChoice, choose=choose))
        return PassManager(passes).run(program)


def scaled(graph: TensorGraph, ring: int) -> Program:
    """The program before layouts are assigned."""
    passes = {"select_parameters": FIXED_SCALES}
    options = {"ring_dimension": ring, "insecure_toy": True, "precision_bits": PRECISION}
    return run_passes(graph, "assign_levels", passes, **options)


def check(program: Program, graph: TensorGraph) -> None:
    """The plan's values are those of the graph: exactly in the clear, and within its noise."""
    plan, layouts = program.facts[Plan], program.facts[Layouts]
    inputs = random_inputs(graph, samples=2)
    clear, noisy = run_slots(plan, inputs), run_slots(plan, inputs, noise=True)
    masks = layouts.mask_bits(program.graph)
    leak = abs(mask_leak(layouts.mask_order)) if masks else 0.0
    for label, value in evaluate(graph, inputs).items():
        assert relative_error(clear[label], value) <= 1e-9
        rms = float(np.sqrt(np.mean((noisy[label] - value) ** 2)))
        assert rms <= 10 * plan.program.prediction.error + 4 * leak * np.abs(value).max()


@st.composite
def graphs(draw: st.DrawFn) -> TensorGraph:
    """Two or three linear maps with squares or quadratics between them."""
    network = RandomNetwork(draw, channels=4, side=8)
    for _ in range(network.pick(1, 2)):
        network.convolve()
        network.value = network.polynomial(network.value, network.pick(0, 1))
    if draw(st.booleans()):
        network.convolve()
    else:
        network.connect()
    return import_model(network.model()).graph


@settings(max_examples=20)
@given(graphs(), st.sampled_from(RINGS), st.sampled_from(["", "complex=false"]), st.data())
def test_every_layout(graph: TensorGraph, ring: int, options: str, data: st.DataObject) -> None:
    def choose(node: Node, states: list[State]) -> State:
        alike = data.draw(st.sampled_from(kinds(node, states)))
        return data.draw(st.sampled_from(alike))

    program = scaled(graph, ring)
    for _ in range(3):
        try:
            found = compiled(program, choose, options)
        except NoLayoutLeftError:
            assume(False)
        check(found, graph)


# ---------------------------------------------------------------------------- masks


def strided() -> Network:
    """A stride leaves the odd columns of the image empty, and every second row."""
    random = np.random.default_rng(1)
    net = Network(x=(1, 2, 6, 8))
    x = net.op("Conv", "x", random.normal(size=(3, 2, 3, 3)) / 4, strides=[2, 2], pads=[1] * 4)
    x = net.op("Mul", x, x)
    x = net.op("Conv", x, random.normal(size=(4, 3, 2, 3)) / 4, random.normal(size=4), pads=[1] * 4)
    x = net.op("Mul", x, x)
    net.op("Gemm", net.op("Flatten", x), random.normal(size=(64, 5)) / 8, name="y")
    return net


def residual() -> Network:
    """A block whose input is added to its output: two operands, one of them a square."""
    random = np.random.default_rng(2)
    net = Network(x=(1, 2, 7, 8))
    x = net.op("Conv", "x", random.normal(size=(2, 2, 2, 2)) / 3, strides=[1, 2], name="first")
    z = net.op("Mul", x, x)
    z = net.op("Conv", z, random.normal(size=(2, 2, 3, 3)) / 4, pads=[1] * 4, name="second")
    x = net.op("Add", z, x)
    x = net.op("Mul", x, x)
    net.op("Conv", x, random.normal(size=(3, 2, 3, 1)) / 3, strides=[2, 1], name="y")
    return net


def gated() -> Network:
    """Two maps of unlike inputs whose results are multiplied, so that they share a layout."""
    random = np.random.default_rng(3)
    net = Network(x=(1, 2, 6, 8), z=(1, 3))
    x = net.op("Conv", "x", random.normal(size=(2, 2, 3, 3)) / 4, strides=[2, 2], pads=[1] * 4)
    z = net.op("Gemm", "z", random.normal(size=(3, 24)) / 2)
    x = net.op("Mul", x, net.op("Reshape", z, np.array([1, 2, 3, 4])))
    net.op("Conv", x, random.normal(size=(2, 2, 3, 3)) / 4, pads=[1] * 4, name="y")
    return net


def most_masked(graph: TensorGraph, node: Node, states: list[State]) -> list[State]:
    """The states with the most cleared operands; of these the ones that spill into odd slots."""

    def masks(state: State) -> tuple[int, bool]:
        pairs = [
            (operand, copy)
            for name, copies in state.copies.items()
            for operand, copy in zip(graph[name].inputs, copies, strict=True)
        ]
        cleared = sum(bool(copy and state.layout[operand].spill) for operand, copy in pairs)
        return cleared, state.layout[node.name].spill == 1

    most = max(map(masks, states))
    return [state for state in states if masks(state) == most]


@pytest.mark.parametrize("ring", [256, 512])
@pytest.mark.parametrize("network", [strided, residual, gated])
def test_masks(network: Callable[[], Network], ring: int) -> None:
    graph = network().graph("y")
    program = scaled(graph, ring)
    random = Random(ring)

    def choose(node: Node, states: list[State]) -> State:
        if random.random() < 0.7:
            states = most_masked(program.graph, node, states)
        return random.choice(random.choice(kinds(node, states)))

    masked = 0
    for _ in range(10):
        with suppress(NoLayoutLeftError):
            found = compiled(program, choose)
            check(found, graph)
            masked += bool(found.facts[Layouts].mask_bits(found.graph))
    assert masked >= 2


def test_encrypted() -> None:
    """A value is spilled, cleared and copied on its way."""
    pytest.importorskip("openfhe", reason="OpenFHE is not installed")
    graph = strided().graph("y")
    program = scaled(graph, 1024)
    found = compiled(program, lambda node, states: most_masked(program.graph, node, states)[-1])
    plan = found.facts[Plan]
    assert any(operation.op == "keep_even" for operation in plan.program.operations)
    inputs = random_inputs(graph, samples=1)
    with InferenceSession(plan, insecure_toy=True, threads=1, ignore_range=True) as session:
        (y,) = session.run(None, {"x": inputs["x"][0]})
    assert relative_error(y, evaluate(graph, inputs)["y"][0]) < 1e-3
