r"""Places every tensor in slots: a search over the layouts of the whole network.

Values connected by elementwise operations share one layout; the linear maps that make them can
produce any layout. `fhecompile.ir.placement` lists the layouts a value may take, given those before
it; a map's cost between two layouts is predicted by `fhecompile.ckks.map_cost` at the map's level.
Each layout of an input is followed down the network by a beam search of width `beam`, and the
cheapest assignment of all is taken; of several inputs, one after the other.

With every map comes the choice of the packing of its partial sums and of copies of its operands
(see `fhecompile.ckks.diagonals`): a spilled value is cleared in its odd slots
(`fhecompile.ckks.slot_mask`) and copied before a map reads it, where that saves more than it costs.
A mask of m bits takes about m / 3 bits of the constants and scales of two layers (`mask_scales`).
With n layers that rescale and k masks the predicted error grows by

    growth(k) = sqrt(1 + 2 k / n * (4^(m / 3) - 1)),

and masks are used as long as the precision asked for is met with it; none may follow on another.

What only a client reads uses imaginary parts and is never spilled; nor is what is multiplied with
itself more than once, as in a polynomial of high degree: what stands in holes is in no range, and
its powers would drown the values in the noise of the constants that remove them. `complex=false`
turns imaginary parts off, `spill=false` spills.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import ClassVar

from fhecompile.ckks.bsgs import RotationCosts, rotation_costs
from fhecompile.ckks.cost import operation_seconds
from fhecompile.ckks.diagonals import Packing
from fhecompile.ckks.gallery import template_layout
from fhecompile.ckks.layout import Layout, next_power_of_two
from fhecompile.ckks.map_cost import MapSizes, unpacking_seconds
from fhecompile.ckks.operations import ValueType
from fhecompile.ckks.parameters import Parameters
from fhecompile.ckks.refresh_cost import refresh_seconds
from fhecompile.ckks.slot_mask import mask_factor, order_for
from fhecompile.errors import InternalError
from fhecompile.ir.depth import measure_powers
from fhecompile.ir.placement import free_bits, input_layouts, layout_classes, result_layouts
from fhecompile.ir.program import Pass, PassResult, Program
from fhecompile.ir.relations import Relation, relations
from fhecompile.ir.scales import ScalePlan, makers, mask_scales
from fhecompile.ir.tensor import (
    Affine,
    Input,
    Mul,
    Node,
    Output,
    Poly,
    Refresh,
    TensorGraph,
    is_product_free,
    uniform_sum_weight,
)
from passes.select_parameters import ScaleChoice


@dataclass(frozen=True, eq=False)
class Layouts:
    """Layout of every value; packing of every affine node and copies its operands are read from.

    `copies[node][k]` is the distance of the copy of operand k (0: none), `mask_order` the
    convergent that clears a spilled operand before it is copied.
    """

    layout: dict[str, Layout]
    packing: dict[str, Packing]
    copies: dict[str, tuple[int, ...]]
    mask_order: int

    def mask_bits(self, graph: TensorGraph) -> dict[str, tuple[float, ...]]:
        """Per affine node with cleared operands the bits of scale the masks take."""
        bits = math.log2(mask_factor(self.mask_order))
        found = {}
        for name, copies in self.copies.items():
            operands = zip(graph[name].inputs, copies, strict=True)
            cleared = [bool(copy and self.layout[i].spill) for i, copy in operands]
            if any(cleared):
                found[name] = tuple(bits if c else 0.0 for c in cleared)
        return found


@dataclass(frozen=True)
class AssignLayouts(Pass):
    """See the module docstring."""

    complex: bool = True
    spill: bool = True
    beam: int = 3

    needs: ClassVar[tuple[type, ...]] = (Parameters, ScalePlan, ScaleChoice)
    gives: ClassVar[tuple[type, ...]] = (Layouts, ScalePlan, ScaleChoice)

    def run(self, program: Program) -> PassResult:
        search = _Search(self, program)
        best = search.run()
        for layout in best.layout.values():
            layout.verify()
        layouts = Layouts(best.layout, best.packing, best.copies, search.mask_order)
        scales, choice = program.facts[ScalePlan], program.facts[ScaleChoice]
        masks = layouts.mask_bits(program.graph)
        if masks:
            scales = mask_scales(program.graph, scales, masks)
            error = choice.predicted_error * search.error_growth(len(masks))
            choice = replace(choice, predicted_error=error)
        remarks = [f"{search.tried} layouts of {search.inputs} inputs compared"]
        for name, packing in best.packing.items():
            copies = "".join(f" copy {c}" for c in best.copies[name] if c)
            remarks.append(f"{name}: {packing}{copies} {best.layout[name]}")
        return PassResult(program.having(layouts, scales, choice), True, tuple(remarks))


@dataclass(frozen=True, eq=False)
class _State:
    """A partial assignment: all values of the nodes visited so far, and its predicted seconds."""

    seconds: float = 0.0
    layout: dict[str, Layout] = field(default_factory=dict)
    packing: dict[str, Packing] = field(default_factory=dict)
    copies: dict[str, tuple[int, ...]] = field(default_factory=dict)
    prepared: frozenset[tuple[str, int]] = frozenset()


@dataclass(frozen=True)
class _Lowering:
    """The cheapest way to lower an affine node between given layouts."""

    seconds: float
    packing: Packing
    copies: tuple[int, ...]


class _Search:
    def __init__(self, options: AssignLayouts, program: Program) -> None:
        self.options = options
        self.graph = program.graph
        self.parameters = program.facts[Parameters]
        self.slots = self.parameters.slots
        self.scales = program.facts[ScalePlan]
        self.choice = program.facts[ScaleChoice]
        self.precision = program.options.precision_bits
        self.mask_order = order_for(2.0 ** -(self.precision + 6.0))
        self.classes = layout_classes(self.graph)
        self.powers = measure_powers(self.graph, self.classes)
        # A refresh would make anything of values without meaning, and needs its very scale.
        self.may_spill = options.spill and not any(isinstance(n, Refresh) for n in self.graph)
        sizes = [node.size for node in self.graph if isinstance(node, Refresh)]
        self.refreshed = min(self.slots, next_power_of_two(max(sizes, default=1)))
        self.template = ""  # the value that is to be a template
        if program.options.match == "gallery":
            self.template = self.graph.outputs()[0].inputs[0]
        self.followed: dict[str, list[Relation]] = {}
        self.sizes = MapSizes()
        self.lowerings: dict[tuple[object, ...], _Lowering] = {}
        self.tried = 0
        self.inputs = 0

    def run(self) -> _State:
        """The cheapest assignment over all layouts of one input after the other."""
        choices = {n.name: self._candidates(n, _State()) for n in self.graph.inputs()}
        self.inputs = sum(map(len, choices.values()))
        given = {name: found[0] for name, found in choices.items()}
        best: _State | None = None
        for name, found in choices.items():
            for layout in found if best is None else found[1:]:
                state = self._place({**given, name: layout}, best)
                if state is not None:
                    best = state
            if best is not None:
                given[name] = best.layout[name]
        if best is None:
            raise InternalError("no layout of the inputs was tried")
        return best

    def _place(self, given: dict[str, Layout], best: _State | None) -> _State | None:
        """The cheapest assignment for these layouts of the inputs, None if `best` is cheaper."""
        states = [_State()]
        for node in self.graph:
            if isinstance(node, Input):
                states = [self._assigned(state, node, given[node.name]) for state in states]
            else:
                states = self._advance(node, states)
            if best is not None:  # seconds only grow
                states = [s for s in states if s.seconds < best.seconds]
        return min(states, key=lambda s: s.seconds, default=None)

    def _advance(self, node: Node, states: list[_State]) -> list[_State]:
        """All states after one more node, the cheapest `beam` of them.

        One that does not spill is always kept: later values that share a layout may have no room
        for its spill.
        """
        after = []
        for state in states:
            if node.name in state.layout:
                after.append(state)
            else:
                after += [
                    self._assigned(state, node, layout) for layout in self._candidates(node, state)
                ]
        after = [self._lowered(node, state) for state in after]
        after = sorted((s for s in after if s.seconds < math.inf), key=lambda s: s.seconds)
        kept = after[: self.options.beam]
        plain = [s for s in after if not any(layout.spill for layout in s.layout.values())]
        return kept if not plain or plain[0] in kept else [*kept, plain[0]]

    def _assigned(self, state: _State, node: Node, layout: Layout) -> _State:
        self.tried += 1
        return replace(
            state, layout={**state.layout, **dict.fromkeys(self.classes[node.name], layout)}
        )

    def _candidates(self, node: Node, state: _State) -> list[Layout]:
        if isinstance(node, Input):
            return input_layouts(self.graph, node, self.slots)
        if not isinstance(node, Affine) or (is_product_free(node) and node.size > 1):
            return [state.layout[node.inputs[0]]]
        if self.template in self.classes[node.name]:
            return [template_layout(node.shape, self.slots)]
        users = [u for name in self.classes[node.name] for u in self.graph.users()[name]]
        private = all(isinstance(u, Output) for u in users)
        parts = 2 if self.options.complex and private and node.size > 1 else 1
        source = state.layout[node.inputs[0]]
        if node.name not in self.followed:
            self.followed[node.name] = relations(node.maps[0], node.shape, source.shape)
        found = result_layouts(node, self.followed[node.name], source, parts)
        if any(isinstance(self.graph[name], Refresh) for name in self.classes[node.name]):
            # All refreshes are of one number of slots, whose transforms are gigabytes.
            found = [x for x in found if x.period <= self.refreshed] or found
        if self.may_spill and self.powers[node.name] <= 1 and self._may_spill(users):
            for layout in list(found):
                found += [replace(layout, spill=bit) for bit in free_bits(layout)[:2]]
        return found

    def _may_spill(self, users: list[Node]) -> bool:
        """Whether values without meaning may stand in holes: not where all slots are summed."""
        return not any(
            isinstance(u, Output) or (isinstance(u, Affine) and uniform_sum_weight(u) is not None)
            for u in users
        )

    # ------------------------------------------------------------------ costs

    def _lowered(self, node: Node, state: _State) -> _State:
        """The state with the cost of one node added."""
        layout = state.layout[node.name]
        if isinstance(node, Affine) and is_product_free(node):
            free: Packing = "real"
            return replace(
                state,
                packing={**state.packing, node.name: free},
                copies={**state.copies, node.name: (0,) * len(node.inputs)},
            )
        if isinstance(node, Affine):
            sources = [state.layout[name] for name in node.inputs]
            clear = tuple(self._may_clear(name, state) for name in node.inputs)
            best = self._cheapest_lowering(node, layout, sources, clear, state.prepared)
            made = zip(node.inputs, best.copies, strict=True)
            return replace(
                state,
                seconds=state.seconds + best.seconds,
                packing={**state.packing, node.name: best.packing},
                copies={**state.copies, node.name: best.copies},
                prepared=state.prepared | {(name, copy) for name, copy in made if copy},
            )
        seconds = 0.0
        if isinstance(node, Mul) or (isinstance(node, Poly) and node.degree > 1):
            x = ValueType("ciphertext", self.scales.level[node.inputs[0]], 0.0)
            seconds = operation_seconds("square", [x], {}, self.parameters) * layout.ciphertexts
        elif isinstance(node, Refresh):
            seconds = refresh_seconds(self.parameters, layout.period, node.terms)
            seconds *= layout.ciphertexts
        return replace(state, seconds=state.seconds + seconds)

    def _cheapest_lowering(
        self,
        node: Affine,
        target: Layout,
        sources: list[Layout],
        clear: tuple[bool, ...],
        prepared: frozenset[tuple[str, int]],
    ) -> _Lowering:
        """As `_lowering`, which looks at no more of the node than is in the key."""
        level = max(self.scales.level[name] for name in node.inputs)
        operands = [
            (
                self.sizes.parts(node.maps[k], source, target),
                node.inputs.index(name),
                frozenset(copy for operand, copy in prepared if operand == name),
            )
            for k, (name, source) in enumerate(zip(node.inputs, sources, strict=True))
        ]
        key = (level, target, *sources, clear, *operands)
        if key not in self.lowerings:
            self.lowerings[key] = self._lowering(node, level, target, sources, clear, prepared)
        return self.lowerings[key]

    def _lowering(
        self,
        node: Affine,
        level: int,
        target: Layout,
        sources: list[Layout],
        clear: tuple[bool, ...],
        prepared: frozenset[tuple[str, int]],
    ) -> _Lowering:
        costs = rotation_costs(self.parameters, level)
        choices: list[Packing] = ["real"]
        if target.is_complex:
            choices = ["direct"]
        elif self.options.complex:
            choices += ["fold"]
            if target.ciphertexts % 2 == 0:
                choices += ["pair"]
        best = _Lowering(math.inf, choices[0], (0,) * len(sources))
        for packing in choices:
            groups = {source.period: source for source in sources}
            seconds = sum(unpacking_seconds(s, target, packing, costs) for s in groups.values())
            ready, copies = prepared, []
            for k, (name, source) in enumerate(zip(node.inputs, sources, strict=True)):
                found = []
                for copy in [0, *self._copies(source, clear[k])]:
                    size = self.sizes.measure(node.maps[k], source, target, packing, copy)
                    cost = math.inf if size is None else size.seconds(costs)
                    found.append((cost + self._preparing(ready, name, source, copy, costs), copy))
                cost, copy = min(found)
                seconds += cost
                copies.append(copy)
                if copy:
                    ready |= {(name, copy)}
            if seconds < best.seconds:
                best = _Lowering(seconds, packing, tuple(copies))
        return best

    def _may_clear(self, name: str, state: _State) -> bool:
        """Whether scales have room for a mask of this value.

        It must be at a square's scale or higher, no map right before it may have cleared an operand
        itself, and one mask more must leave the precision asked for.
        """
        if self.scales.scale[name] < 2 * self.scales.policy.activation_bits:
            return False
        masked = {
            maker
            for maker, copies in state.copies.items()
            for operand, copy in zip(self.graph[maker].inputs, copies, strict=True)
            if copy and state.layout[operand].spill
        }
        error = self.choice.predicted_error * self.error_growth(len(masked) + 1)
        return self.choice.allows(error) and not masked & set(makers(self.graph, name))

    def error_growth(self, masks: int) -> float:
        """growth(k) of the module docstring."""
        layers = max(1, sum(bool(r) for r in self.scales.rescales.values()))
        lost = 4.0 ** (math.log2(mask_factor(self.mask_order)) / 3) - 1
        return math.sqrt(1.0 + 2 * masks / layers * lost)

    def _copies(self, source: Layout, clear: bool) -> list[int]:
        """Distances at which operand k could be copied."""
        if not source.spill:
            return free_bits(source)[:1]
        return [1] if source.spill == 1 and clear else []

    def _preparing(
        self,
        ready: frozenset[tuple[str, int]],
        name: str,
        source: Layout,
        copy: int,
        costs: RotationCosts,
    ) -> float:
        if not copy or (name, copy) in ready:
            return 0.0
        return source.ciphertexts * (costs.rotate + (costs.unit if source.spill else 0.0))
