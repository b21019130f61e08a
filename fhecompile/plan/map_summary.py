r"""What every linear map of a plan takes, and which layers use which layout.

An affine layer has one map per operand. A product of diagonal y in a sum that is rotated by the
giant step g reads its operand rotated by the baby step b = y - g mod S. Per map:

offsets        distinct rotation offsets y
baby_steps     rotations of input ciphertexts: distinct (input ciphertext, b) with b != 0
giant_steps    rotations of sums: distinct (accumulator, g) with g != 0
products       plaintext products
floor          multiply-accumulates / (2 * slots), see `fhecompile.plan.summary`
utilisation    floor / products

Rotations that several maps share are counted at each, so that sums over maps may exceed the plan's.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from fhecompile.ckks.diagonals import DiagonalMap, term_pieces
from fhecompile.plan.plan import Plan
from fhecompile.plan.schema import MapInfo

MOVING = ("rotate", "rotate_hoisted", "drop_level", "keep_even")


@dataclass(frozen=True)
class MapSummary:
    """See the module docstring; `source` is the layer that made the operand, `copies` the distance
    of the operand's copy (0: none), `source_layout` and `target_layout` number the plan's."""

    layer: str
    source: str
    packing: str
    copies: int
    source_layout: int
    target_layout: int
    inputs: int
    outputs: int
    offsets: int
    baby_steps: int
    giant_steps: int
    products: int
    floor: float
    utilisation: float | None


def summarise_maps(plan: Plan) -> tuple[MapSummary, ...]:
    """The numbers of every linear map, in the plan's order."""
    program, slots = plan.program, plan.parameters.slots
    uses = _uses(plan)
    found = []
    for info, (dm, diagonals), use in zip(program.maps, plan.maps, uses, strict=True):
        babies: set[tuple[int, int]] = set()
        giants: set[tuple[int, int]] = set()
        for number, giant in use.products:
            d = diagonals[number]
            babies.add((d.ciphertext, (d.offset - giant) % slots))
            giants.add((d.accumulator, giant % slots))
        floor = _multiply_accumulates(dm) / (2 * slots)
        products = len(use.products)
        found.append(
            MapSummary(
                layer=program.layers[info.layer].name,
                source="" if use.operand is None else _maker(plan, use.operand, info),
                packing=info.packing,
                copies=info.copies,
                source_layout=info.source,
                target_layout=info.target,
                inputs=dm.source.ciphertexts,
                outputs=dm.target.ciphertexts,
                offsets=len({d.offset for d in diagonals}),
                baby_steps=sum(baby != 0 for _, baby in babies),
                giant_steps=sum(giant != 0 for _, giant in giants),
                products=products,
                floor=floor,
                utilisation=floor / products if floor and products else None,
            )
        )
    return tuple(found)


def layout_users(plan: Plan) -> list[list[str]]:
    """Per layout of the plan the layers whose values are in it, in order."""
    users: list[list[str]] = [[] for _ in plan.program.layouts]
    for layer in plan.program.layers:
        users[layer.layout].append(layer.name)
    return users


@dataclass
class _Use:
    """What products read a map: (diagonal, giant step) of each, and the operand of the first."""

    products: list[tuple[int, int]] = field(default_factory=list)
    operand: int | None = None


def _multiply_accumulates(dm: DiagonalMap) -> int:
    """Non-zeros of a map, counted piece by piece: a plan's terms may be larger than memory."""
    pieces = (piece for term in dm.linear_map.terms for piece in term_pieces(term))
    return sum(piece.multiply_accumulates() for piece in pieces)


def _uses(plan: Plan) -> list[_Use]:
    uses = [_Use() for _ in plan.program.maps]
    for info in plan.program.operations:
        if info.op != "dot_plain":
            continue
        attributes = info.attributes
        numbers = zip(info.inputs, attributes["maps"], attributes["diagonals"], strict=True)
        for operand, number, diagonal in numbers:
            use = uses[number]
            use.products.append((diagonal, attributes["rotation"]))
            use.operand = operand if use.operand is None else use.operand
    return uses


def _maker(plan: Plan, operand: int, info: MapInfo) -> str:
    """The layer that made what a map reads: back over rotations, dropped levels and copies."""
    while True:
        made = plan.program.operations[operand]
        copied = info.copies and made.op == "add"
        if not copied and made.op not in MOVING:
            return plan.program.layers[made.layer].name
        operand = made.inputs[0]
