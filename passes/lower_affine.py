r"""Cuts every linear map into diagonals and chooses its baby-step giant-step split.

The operands of an affine node are summed into the same accumulators where their replicas have the
same period; otherwise they form separate groups. Splits are chosen layer after layer, rotations
that earlier layers need already having their key.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fhecompile.ckks.bsgs import Split, choose_split, rotation_costs
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

    needs: ClassVar[tuple[type, ...]] = (Layouts, Parameters, ScalePlan)
    gives: ClassVar[tuple[type, ...]] = (LoweredMaps,)

    def run(self, program: Program) -> PassResult:
        layouts, plan = program.facts[Layouts], program.facts[ScalePlan]
        groups: dict[str, tuple[MapGroup, ...]] = {}
        remarks = []
        keys: frozenset[int] = frozenset()
        for node in program.graph:
            if not isinstance(node, Affine) or is_product_free(node):
                continue
            by_period: dict[int, list[tuple[int, DiagonalMap]]] = {}
            for k, (name, m) in enumerate(zip(node.inputs, node.maps, strict=True)):
                source = layouts.layout[name]
                dm = DiagonalMap(
                    m,
                    source,
                    layouts.layout[node.name],
                    layouts.packing[node.name],
                    copies=layouts.copies[node.name][k],
                )
                by_period.setdefault(source.period, []).append((k, dm))
            made = []
            for members in by_period.values():
                operands, maps = zip(*members, strict=True)
                level = max(plan.level[name] for name in node.inputs)
                costs = rotation_costs(program.facts[Parameters], level)
                split = choose_split(maps, costs, keys)
                maps = tuple(m.with_window(split.window) for m in maps)
                made.append(MapGroup(operands, maps, split))
                keys |= _rotations(made[-1])
            groups[node.name] = tuple(made)
            products = sum(g.products for g in made)
            remarks.append(f"{node.name}: {products} plaintext products")
        return PassResult(program.having(LoweredMaps(groups)), True, tuple(remarks))


def _rotations(group: MapGroup) -> frozenset[int]:
    slots = group.split.slots
    offsets = [d.offset for m in group.maps for d in m.diagonals]
    found = {group.split.baby(y) % slots for y in offsets}
    found |= {group.split.giant(y) % slots for y in offsets}
    return frozenset(found - {0})
