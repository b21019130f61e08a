r"""Orders the operations for a small live set and predicts the peak of live ciphertexts.

The lowering's order is topological and layer by layer. In it a `drop_level` or `conjugate` whose
operand lives on anyway sinks to its first use, so that its copy is not alive before. The executor
runs operations in this order as far as their operands allow, and frees a value after its last use.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from fhecompile.ckks.parameters import RUNTIME_BYTES, Parameters
from fhecompile.ckks.refresh_cost import refresh_plaintext_bytes
from fhecompile.ir.program import Pass, PassResult, Program
from fhecompile.ir.slots import SlotGraph, SlotNode
from fhecompile.plan.schema import KeysInfo
from passes.share_rotations import RotationKeys

WORKING_CIPHERTEXTS = 8  # temporaries of the operations in flight
REFRESH_CIPHERTEXTS = 20  # rotated babies in the basis QP, or powers of the exponential


@dataclass(frozen=True)
class MemoryPrediction:
    """Bytes of evaluation keys, of live ciphertexts at the worst moment, and of the whole run."""

    key_bytes: int
    live_bytes: int
    peak_bytes: int


@dataclass(frozen=True)
class ScheduleOperations(Pass):
    """See the module docstring."""

    needs: ClassVar[tuple[type, ...]] = (Parameters, RotationKeys)
    gives: ClassVar[tuple[type, ...]] = (MemoryPrediction,)

    def run(self, program: Program) -> PassResult:
        graph = program.slot_graph()
        ordered = _sunk(graph)
        memory = _memory(ordered, program.facts[Parameters], program.facts[RotationKeys])
        remark = (
            f"at most {memory.live_bytes / 2**20:.0f} MiB of ciphertexts alive, "
            f"{memory.key_bytes / 2**20:.0f} MiB of keys"
        )
        return PassResult(replace(program.having(memory), slots=ordered), True, (remark,))


def _sunk(graph: SlotGraph) -> SlotGraph:
    """Every operation whose operands live on anyway is placed just before its first use."""
    first_use: dict[int, int] = {}
    last_use: dict[int, int] = {}
    for position, node in enumerate(graph):
        for operand in node.inputs:
            first_use.setdefault(operand, position)
            last_use[operand] = position
    waiting: dict[int, list[SlotNode]] = {}
    kept: list[SlotNode] = []
    for position, node in enumerate(graph):
        for late in waiting.pop(position, []):
            kept.append(late)
        use = first_use.get(node.id)
        lives_on = all(last_use[o] > position for o in node.inputs)
        if node.op in ("drop_level", "conjugate") and use is not None and lives_on:
            waiting.setdefault(use, []).append(node)
        else:
            kept.append(node)
    ordered = graph.emptied()
    ordered.nodes = {node.id: node for node in kept}
    ordered.next_id, ordered.results = graph.next_id, graph.results
    return ordered


def _memory(graph: SlotGraph, parameters: Parameters, keys: RotationKeys) -> MemoryPrediction:
    last_use = {operand: node.id for node in graph for operand in node.inputs}
    live = peak = 0
    size: dict[int, int] = {}
    for node in graph:
        size[node.id] = _bytes(node, parameters)
        live += size[node.id]
        peak = max(peak, live)
        for operand in set(node.inputs):
            if last_use[operand] == node.id:
                live -= size[operand]
        if node.id not in last_use and node.op != "output":
            live -= size[node.id]
    relinearisation = any(node.op in ("mul", "square", "refresh") for node in graph)
    info = KeysInfo(keys.offsets, keys.conjugation, relinearisation, keys.refreshes)
    key_bytes = info.count * parameters.key_bytes
    expanded = sorted(len(m.diagonals) * parameters.slots * 16 for m in graph.maps)
    # Two maps are expanded at a time, each needing a working copy.
    working = RUNTIME_BYTES + 2 * sum(expanded[-2:])
    working += WORKING_CIPHERTEXTS * parameters.ciphertext_bytes()
    for slots in keys.refreshes:
        working += refresh_plaintext_bytes(parameters, slots)
    if keys.refreshes:
        working += REFRESH_CIPHERTEXTS * parameters.ciphertext_bytes()
    return MemoryPrediction(key_bytes, peak, key_bytes + peak + working)


def _bytes(node: SlotNode, parameters: Parameters) -> int:
    if node.op == "output":
        return 0
    towers = parameters.levels + 1 - node.type.level
    if node.type.kind == "extended":
        return 2 * (towers + parameters.special_primes) * parameters.ring_dimension * 8
    if node.type.kind == "digits":
        return (
            parameters.digits
            * (towers + parameters.special_primes)
            * (parameters.ring_dimension * 8)
        )
    return parameters.ciphertext_bytes(node.type.level)
