r"""Cuts every linear map into diagonals and chooses its baby-step giant-step split.

The operands of an affine node are summed into the same accumulators where their replicas have the
same period; otherwise they form separate groups. Splits are chosen in `rounds` over all layers,
each knowing which rotations the others need anyway; what a split takes is counted once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from fhecompile.ckks.bsgs import Split, SplitSize, cheapest_split, measure_splits, rotation_costs
from fhecompile.ckks.diagonals import DiagonalMap
from fhecompile.ckks.parameters import Parameters
from fhecompile.ir.program import Pass, PassResult, Program
from fhecompile.ir.scales import ScalePlan
from fhecompile.ir.tensor import Affine, is_product_free
from passes.assign_layouts import Layouts


@dataclass(frozen=True, eq=False)
class MapGroup:
    """Operands (by position) whose products go into the same accumulators, and their split."""

    operands: tuple[int, ...]
    maps: tuple[DiagonalMap, ...]
    split: Split

    @property
    def products(self) -> int:
        """Number of plaintext products."""
        return sum(len(m.offsets) for m in self.maps)


@dataclass(frozen=True, eq=False)
class LoweredMaps:
    """The groups of every affine node that needs plaintext products."""

    groups: dict[str, tuple[MapGroup, ...]]


@dataclass(frozen=True)
class LowerAffine(Pass):
    """See the module docstring."""

    rounds: int = 3

    needs: ClassVar[tuple[type, ...]] = (Layouts, Parameters, ScalePlan)
    gives: ClassVar[tuple[type, ...]] = (LoweredMaps,)

    def run(self, program: Program) -> PassResult:
        layouts, plan = program.facts[Layouts], program.facts[ScalePlan]
        parameters = program.facts[Parameters]
        pending = [
            (node, operands, maps, rotation_costs(parameters, _level(node, plan)))
            for node in program.graph
            if isinstance(node, Affine) and not is_product_free(node)
            for operands, maps in _by_period(node, layouts)
        ]
        sizes = _measure_all([maps for _, _, maps, _ in pending])
        fixed = frozenset[int]().union(*(_fixed_rotations(maps) for _, _, maps, _ in pending))
        made: dict[int, MapGroup] = {}
        needed: dict[int, frozenset[int]] = {}
        for _ in range(self.rounds):
            for k, (_, operands, maps, costs) in enumerate(pending):
                taken = fixed.union(*(keys for j, keys in needed.items() if j != k))
                split = cheapest_split(sizes[k], costs, taken)
                maps = tuple(m.with_window(split.window) for m in maps)
                made[k] = MapGroup(operands, maps, split)
                needed[k] = _rotations(made[k])
        groups: dict[str, tuple[MapGroup, ...]] = {}
        for k, (node, _, _, _) in enumerate(pending):
            groups[node.name] = (*groups.get(node.name, ()), made[k])
        remarks = [
            f"{name}: {sum(g.products for g in found)} plaintext products"
            for name, found in groups.items()
        ]
        return PassResult(program.having(LoweredMaps(groups)), True, tuple(remarks))


def _level(node: Affine, plan: ScalePlan) -> int:
    return max(plan.level[name] for name in node.inputs)


def _by_period(
    node: Affine, layouts: Layouts
) -> list[tuple[tuple[int, ...], tuple[DiagonalMap, ...]]]:
    """The operands' maps, grouped by the period of their layouts: (operands, maps)."""
    by_period: dict[int, list[tuple[int, DiagonalMap]]] = {}
    for k, (name, m) in enumerate(zip(node.inputs, node.maps, strict=True)):
        dm = DiagonalMap(
            m,
            layouts.layout[name],
            layouts.layout[node.name],
            layouts.packing[node.name],
            copies=layouts.copies[node.name][k],
        )
        by_period.setdefault(dm.source.period, []).append((k, dm))
    found = []
    for members in by_period.values():
        operands, maps = zip(*members, strict=True)
        found.append((operands, maps))
    return found


def _measure_all(groups: Sequence[tuple[DiagonalMap, ...]]) -> list[list[SplitSize]]:
    """The splits of every group; those of equal layers are measured once."""
    known: dict[tuple[object, ...], list[SplitSize]] = {}
    found = []
    for maps in groups:
        key = tuple(
            (m.source, m.target, m.packing, m.copies, m.raw_offsets.tobytes()) for m in maps
        )
        if key not in known:
            known[key] = measure_splits(maps)
        found.append(known[key])
    return found


def _fixed_rotations(maps: Sequence[DiagonalMap]) -> frozenset[int]:
    """Rotations that do not depend on the split: of replicas, spills, folds and copies."""
    slots = maps[0].source.slots
    found = {*maps[0].sum_rotations(), maps[0].fold_distance, *(-m.copies for m in maps)}
    return frozenset(offset % slots for offset in found) - {0}


def _rotations(group: MapGroup) -> frozenset[int]:
    slots = group.split.slots
    offsets = [d.offset for m in group.maps for d in m.diagonals]
    found = {group.split.baby(y) % slots for y in offsets}
    found |= {group.split.giant(y) % slots for y in offsets}
    return frozenset(found - {0})
