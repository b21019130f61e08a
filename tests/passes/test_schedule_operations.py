"""The order keeps operands before their uses; the golden text pins a small network's operations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np

from fhecompile.ckks.parameters import RUNTIME_BYTES, Parameters
from fhecompile.ir import slots
from fhecompile.ir.program import Facts, Program
from fhecompile.ir.slots import SlotGraph
from fhecompile.ir.tensor import TensorGraph
from fhecompile.ir.text import print_slot_graph
from fhecompile.options import CompileOptions
from passes.schedule_operations import MemoryPrediction, ScheduleOperations
from passes.share_rotations import RotationKeys
from tests.graphs import FIXED_SCALES, run_passes
from tests.support import Network

PARAMETERS = Parameters(32, 2, 59, 60, 1, 128, insecure=True)


def compiled() -> Program:
    """A convolution, a quadratic and a dense layer on 64 slots; constants exact in binary."""
    net = Network(x=(1, 1, 6, 6))
    kernel = (np.arange(18.0) - 8).reshape(2, 1, 3, 3) / 16
    conv = net.op("Conv", "x", kernel, np.array([0.5, -0.25]), name="conv")
    total = net.op("Add", net.op("Mul", conv, conv), conv, name="quadratic")
    weights = (np.arange(96.0) % 11 - 5).reshape(32, 3) / 8
    graph = net.graph(net.op("Gemm", net.op("Flatten", total), weights, name="gemm"))
    scales = {"select_parameters": FIXED_SCALES}
    return run_passes(graph, "schedule_operations", scales, ring_dimension=128, insecure_toy=True)


def schedule(graph: SlotGraph, keys: RotationKeys) -> tuple[SlotGraph, MemoryPrediction]:
    facts = Facts([PARAMETERS, keys])
    program = Program(TensorGraph("g"), CompileOptions(), facts, graph)
    result = ScheduleOperations().run(program).program
    slots.verify(result.slot_graph())
    return result.slot_graph(), result.facts[MemoryPrediction]


def test_operations_of_a_small_network(golden: Callable[[str, str], None]) -> None:
    graph = compiled().slot_graph()
    counts = Counter(node.op for node in graph)
    summary = "".join(f"// {n:3} {op}\n" for op, n in sorted(counts.items()))
    golden("small_network.txt", summary + print_slot_graph(graph))


def test_operands_come_before_their_uses() -> None:
    graph = compiled().slot_graph()
    slots.verify(graph)
    made: set[int] = set()
    for node in graph:
        assert made.issuperset(node.inputs)
        made.add(node.id)
    assert graph.next_id > max(made)


def test_cheap_operations_sink_to_their_first_use() -> None:
    graph = SlotGraph(59)
    x = graph.emit("input", (), "a", tensor=0, part=0, level=0, scale=40.0)
    low = graph.emit("drop_level", (x,), "a", levels=1)
    square = graph.emit("square", (x,), "a")
    fourth = graph.emit("square", (square,), "a")
    again = graph.emit("drop_level", (fourth,), "a", levels=1)
    up = graph.emit("scale_up", (low,), "a", bits=60)
    up = graph.emit("scale_up", (up,), "a", bits=60)
    total = graph.emit("add", (again, up), "a")
    graph.emit("output", (total,), "a", tensor=0, part=0)
    graph.emit("output", (x,), "a", tensor=1, part=0)
    ordered, _ = schedule(graph, RotationKeys((), False))
    position = {node.id: k for k, node in enumerate(ordered)}
    assert position[low] > position[again]
    assert set(position) == set(graph.nodes)


def test_memory() -> None:
    graph = SlotGraph(59)
    x = graph.emit("input", (), "a", tensor=0, part=0, level=0, scale=40.0)
    y = graph.emit("square", (x,), "a")
    z = graph.emit("rotate", (y,), "a", offset=1)
    graph.emit("output", (z,), "a", tensor=0, part=0)
    _, memory = schedule(graph, RotationKeys((1,), True))
    # One key each for the rotation, the conjugation and relinearisation; two values live at once.
    assert memory.key_bytes == 3 * PARAMETERS.key_bytes
    assert memory.live_bytes == 2 * PARAMETERS.ciphertext_bytes(0)
    assert memory.peak_bytes >= memory.key_bytes + memory.live_bytes + RUNTIME_BYTES


def test_values_nobody_reads_are_freed() -> None:
    graph = SlotGraph(59)
    x = graph.emit("input", (), "a", tensor=0, part=0, level=0, scale=40.0)
    for _ in range(5):
        graph.emit("square", (x,), "a")
    graph.emit("output", (x,), "a", tensor=0, part=0)
    _, memory = schedule(graph, RotationKeys((), False))
    assert memory.live_bytes == 2 * PARAMETERS.ciphertext_bytes(0)
