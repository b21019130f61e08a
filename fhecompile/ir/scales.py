r"""Scales of all values: explicit, per value, using whole machine words.

Every prime occupies a 64-bit word, so primes are as large as they can be and one rescale is worth
`prime_bits` = q of them. An activation is kept at scale s or more, constants at a or more, and a
prime is dropped as soon as a whole one fits above s:

    affine   inputs at c_k, constants at C - c_k >= a for a common raw scale C; then r rescales,
             r = floor((C - s) / q); when raising C by at most `bump` bits lets one more prime go,
             it is raised
    poly     x at c: x^2 at 2c, the linear term's constant at c, the constant term at 2c
    mul      c_1 + c_2
    add      one summand is multiplied by the integer next to 2^b, b >= MATCH_BITS, and drops the
             primes that put it at the other's scale; where neither has room for that, both are
             multiplied (`match_scales`)

    masks    where an operand is multiplied by a mask of m bits before the products
             (`fhecompile.ckks.slot_mask`), C stays and c_k grows by m, so that constants lose m
             bits; the maps that make the operand leave it m / 3 bits lower, which a square doubles:
             every constant and scale around the mask loses about m / 3 bits, none loses m.
             Rescales stay where they are without masks

With s + a = q a square and the linear map behind it cost one prime, not two. A uniform factor w
costs nothing at all: the integers stay, the scale's label is divided by w.
(The waterline of EVA, Dathathri et al. 2020, with constants' scales free.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from fhecompile.ckks.bootstrap import Bootstrap
from fhecompile.ckks.parameters import Parameters
from fhecompile.errors import InternalError
from fhecompile.ir.tensor import (
    Add,
    Affine,
    Function,
    Input,
    Mul,
    Poly,
    Refresh,
    TensorGraph,
    is_product_free,
    uniform_identity_weight,
    uniform_sum_weight,
)

HEADROOM_BITS = 4  # the sign, and values up to 8 times the calibrated ones
SLACK_BITS = 8  # below 2^q that scales of values and of constants may be, with refreshes
MATCH_BITS = 24  # precision of the integer that brings two summands to one scale


@dataclass(frozen=True)
class ScalePolicy:
    """s, a, q and the bump of the module docstring, in bits, and how values are refreshed."""

    activation_bits: float
    constant_bits: float
    prime_bits: int
    bump: float = 0.0
    bootstrap: Bootstrap | None = None


def refreshed_policy(prime_bits: int, bootstrap: Bootstrap) -> ScalePolicy:
    """Of a network with refreshes, which work at scale 2^q: so does all between two."""
    least = float(prime_bits - SLACK_BITS)
    return ScalePolicy(least, least, prime_bits, 0.0, bootstrap)


@dataclass(frozen=True)
class Room:
    """The most bits that a value takes, sign and headroom included, by the primes dropped."""

    prime_bits: int
    bits: tuple[tuple[int, float], ...]

    def levels(self, first_prime_bits: int) -> int:
        """Rescaling primes needed so that all values fit."""
        needed = 0
        for level, bits in self.bits:
            missing = math.ceil((bits - first_prime_bits) / self.prime_bits)
            needed = max(needed, level + max(0, missing))
        return needed


@dataclass(frozen=True, eq=False)
class ScalePlan:
    """Scales and levels of every value.

    `scale` and `level` hold after the node's `rescales`; `raw` is the scale before them.
    `constants` are the scales of an affine node's weights, per operand, `lifts` what operands of
    refreshes are multiplied by.
    """

    policy: ScalePolicy
    scale: dict[str, float] = field(default_factory=dict)
    raw: dict[str, float] = field(default_factory=dict)
    rescales: dict[str, int] = field(default_factory=dict)
    level: dict[str, int] = field(default_factory=dict)
    constants: dict[str, tuple[float, ...]] = field(default_factory=dict)
    lifts: dict[str, Lift] = field(default_factory=dict)

    def levels(self, largest: Mapping[str, float], first_prime_bits: int) -> int:
        """Rescaling primes needed so that value times scale always fits half the modulus."""
        needed = self.room(largest).levels(first_prime_bits)
        if self.policy.bootstrap is None:
            return needed
        entered = max((lift.level for lift in self.lifts.values()), default=0)
        return max(needed, entered + self.policy.bootstrap.operand_primes)

    def room(self, largest: Mapping[str, float]) -> Room:
        """The room that values take, none of them larger than these."""
        found: dict[int, float] = {}  # the most bits at every level
        for name, level in self.level.items():
            # What is zero on the calibration data may still hold noise.
            size = math.log2(max(largest.get(name) or 1.0, 2.0**-20)) + HEADROOM_BITS
            before = level - self.rescales[name]
            found[level] = max(found.get(level, -math.inf), self.scale[name] + size)
            found[before] = max(found.get(before, -math.inf), self.raw[name] + size)
        return Room(self.policy.prime_bits, tuple(found.items()))


@dataclass(frozen=True)
class Lift:
    """How the operand of a refresh gets its scale: times 2^bits, then `rescales`.

    `level` is that of what is refreshed.
    """

    bits: float
    rescales: int
    level: int


def lift(scale: float, level: int, wanted: float, prime_bits: int) -> Lift:
    """From a scale to the wanted one; an integer is exact, other factors are rounded."""
    difference = wanted - scale
    if difference > -1e-9 and abs(difference - round(difference)) < 1e-9:
        return Lift(float(round(difference)), 0, level)
    rescales = max(0, math.ceil((MATCH_BITS - difference) / prime_bits))
    return Lift(difference + rescales * prime_bits, rescales, level + rescales)


def refreshed_scales(graph: TensorGraph, prime_bits: int) -> dict[str, float]:
    """The scales that values are to have in order to be refreshed, by the values' names."""
    wanted: dict[str, float] = {}
    for node in graph:
        if isinstance(node, Refresh):
            wanted.setdefault(node.inputs[0], prime_bits + math.log2(node.unit))
    return wanted


def plan_scales(
    graph: TensorGraph, policy: ScalePolicy, start: Mapping[str, int] | None = None
) -> ScalePlan:
    """Assigns scales in topological order; see the module docstring.

    Args:
        graph: the graph.
        policy: the policy; with refreshes it says how they are done.
        start: levels of inputs that are encrypted below level 0.
    """
    plan = ScalePlan(policy)
    users = graph.users()
    wanted = refreshed_scales(graph, policy.prime_bits)
    s, a, q = policy.activation_bits, policy.constant_bits, policy.prime_bits
    for node in graph:
        operands = [plan.scale[name] for name in node.inputs]
        level = max((plan.level[name] for name in node.inputs), default=0)
        drop = True
        match node:
            case Input():
                products = all(
                    isinstance(u, Affine) and not is_product_free(u) for u in users[node.name]
                )
                raw, drop = (s + q - a if products else s), False
                level = (start or {}).get(node.name, 0)
            case Affine():
                weight = uniform_identity_weight(node) or uniform_sum_weight(node)
                if weight is not None:
                    raw, drop = operands[0] - math.log2(abs(weight)), False
                else:
                    raw = max(operands) + a
                    missing = (wanted.get(node.name, s) - raw) % q
                    if missing <= policy.bump or node.name in wanted:
                        raw += missing
                    plan.constants[node.name] = tuple(raw - c for c in operands)
            case Poly():
                leading = abs(float(node.coefficients[-1].flat[0]))
                if not node.leading_is_uniform() or node.degree > 2 or leading == 0:
                    raise InternalError(f"poly {node.name} has not been lowered")
                raw = node.degree * operands[0] - math.log2(leading)
                drop = node.degree == 2
            case Refresh():
                if policy.bootstrap is None:
                    raise InternalError(f"{node.name} is a refresh, the parameters have none")
                scale = q + math.log2(node.unit)
                plan.lifts[node.name] = lift(operands[0], level, scale, q)
                raw, drop = q + math.log2(node.gain), False
                level = policy.bootstrap.output_level
            case Function():
                raise InternalError(f"the function {node.name} has not been fitted")
            case Mul():
                raw = operands[0] + operands[1]
            case Add():
                places = [(plan.scale[name], plan.level[name]) for name in node.inputs]
                raw, drop = match_scales(places[0], places[1], q).scale, False
            case _:
                raw, drop = operands[0], False
        lowest = wanted.get(node.name, s) if isinstance(node, Affine) else s
        rescales = max(0, math.floor((raw - lowest) / q + 1e-9)) if drop else 0
        plan.raw[node.name] = raw
        plan.rescales[node.name] = rescales
        plan.scale[node.name] = raw - rescales * q
        plan.level[node.name] = level + rescales
    return plan


def mask_scales(
    graph: TensorGraph, plan: ScalePlan, masks: Mapping[str, Sequence[float]]
) -> ScalePlan:
    """The plan with room for masks: per affine node the bits m of every operand's, 0 for none."""
    lowered = _lowered(graph, masks)
    q = plan.policy.prime_bits
    masked = replace(plan, scale={}, raw={}, constants=dict(plan.constants))
    for node in graph:
        operands = [masked.scale[name] for name in node.inputs]
        change = sum(c - plan.scale[i] for c, i in zip(operands, node.inputs, strict=True))
        raw = plan.raw[node.name]
        match node:
            case Affine() if node.name in plan.constants:
                raw -= lowered.get(node.name, 0)
                masked.constants[node.name] = tuple(raw - c for c in operands)
            case Poly():
                raw += node.degree * change
            case Add():
                places = [(masked.scale[name], plan.level[name]) for name in node.inputs]
                raw = match_scales(places[0], places[1], q).scale
            case _:
                raw += change
        masked.raw[node.name] = raw
        masked.scale[node.name] = raw - plan.rescales[node.name] * q
    return masked


def _lowered(graph: TensorGraph, masks: Mapping[str, Sequence[float]]) -> dict[str, int]:
    """Bits by which affine nodes leave their result lower, because a mask comes behind it."""
    found: dict[str, int] = {}
    for name, bits in masks.items():
        for operand, m in zip(graph[name].inputs, bits, strict=True):
            if m:
                for maker in makers(graph, operand):
                    found[maker] = max(found.get(maker, 0), round(m / 3))
    return found


def makers(graph: TensorGraph, name: str) -> list[str]:
    """The affine nodes with products that a value is computed from by elementwise operations."""
    pending, found = [name], []
    while pending:
        node = graph[pending.pop()]
        if isinstance(node, Affine) and not is_product_free(node):
            found.append(node.name)
        else:
            pending += node.inputs
    return found


@dataclass(frozen=True)
class MatchedScales:
    """How two summands come to one scale: by integers of `bits` bits, then `rescales`, of each."""

    scale: float
    bits: tuple[float, float] = (0.0, 0.0)
    rescales: tuple[int, int] = (0, 0)


def match_scales(a: tuple[float, int], b: tuple[float, int], prime_bits: int) -> MatchedScales:
    """For summands at (scale, level), of which the sum has the deeper level."""
    (scale_a, level_a), (scale_b, level_b) = a, b
    if scale_a < scale_b:
        swapped = match_scales(b, a, prime_bits)
        return MatchedScales(swapped.scale, swapped.bits[::-1], swapped.rescales[::-1])
    difference = scale_a - scale_b
    if difference <= 1e-9:
        return MatchedScales(scale_a)
    if abs(difference - round(difference)) < 1e-9:
        return MatchedScales(scale_a, (0.0, float(round(difference))))
    both = (float(MATCH_BITS), difference + MATCH_BITS)
    found = [MatchedScales(scale_a + MATCH_BITS, both)]
    for dropped in range(abs(level_a - level_b) + 1):
        up, down = dropped * prime_bits + difference, dropped * prime_bits - difference
        if up >= MATCH_BITS and level_b + dropped <= max(level_a, level_b):
            found.append(MatchedScales(scale_a, (0.0, up), (0, dropped)))
        if down >= MATCH_BITS and level_a + dropped <= max(level_a, level_b):
            found.append(MatchedScales(scale_b, (down, 0.0), (dropped, 0)))
    return min(found, key=lambda match: (match.scale, sum(match.rescales)))


def latest_inputs(
    graph: TensorGraph, plan: ScalePlan, largest: Mapping[str, float], parameters: Parameters
) -> dict[str, int]:
    """The deepest levels that inputs can be encrypted at so that all that follows still fits."""
    q, latest = plan.policy.prime_bits, dict.fromkeys(graph.nodes, parameters.levels)
    for node in reversed(list(graph)):
        level = min(latest[node.name], parameters.levels) - plan.rescales[node.name]
        if isinstance(node, Refresh):
            level = parameters.deepest_operand - plan.lifts[node.name].rescales
        size = math.log2(max(largest.get(node.name) or 1.0, 2.0**-20)) + HEADROOM_BITS
        if not isinstance(node, Refresh):
            excess = plan.raw[node.name] + size - parameters.first_prime_bits
            level = min(level, parameters.levels - max(0, math.ceil(excess / q)))
        for name in node.inputs:
            latest[name] = min(latest[name], level)
            if isinstance(node, Add):  # summands are matched by their levels, which stay
                latest[name] = min(latest[name], plan.level[name])
        latest[node.name] = level
    return {node.name: latest[node.name] for node in graph.inputs()}
