r"""What a server does with templates, as plans of their own: placing one, matching one with many.

The plan of a network compiled with `--match gallery` gives templates (`fhecompile.ckks.gallery` has
the layout and the mathematics). From that plan two more follow, for the same keys:

    place p      rotate by -p, composed of powers of two
    match G      spread the probe; rescale it and each of G sums of placed templates; multiply; sum
                 over elements

Both are plans like any other: validated, executed by the same executor on any backend.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import msgspec

from fhecompile.ckks.gallery import (
    places,
    spreading_rotations,
    summing_rotations,
    template_layout,
    template_scale,
)
from fhecompile.ckks.layout import Layout
from fhecompile.errors import FheCompileError
from fhecompile.plan import Plan
from fhecompile.plan.schema import (
    DigitInfo,
    InputInfo,
    KeysInfo,
    LayerInfo,
    LayoutInfo,
    OperationInfo,
    OutputInfo,
    ViewInfo,
)

TEMPLATE, SCORES = "template", "scores"


def check_template_plan(plan: Plan) -> None:
    """Raises when a plan does not give templates."""
    names = [info.name for info in plan.program.outputs]
    if names == [TEMPLATE] and plan.layouts[plan.program.outputs[0].layout] == _layout(plan):
        wanted, largest = template_scale(plan.parameters)
        level, scale = output_type(plan)
        if level == wanted and largest - 1 < scale <= largest:
            return
    raise FheCompileError(
        "no-template",
        "this plan does not give templates",
        hint="compile the model with --match gallery",
    )


def places_of(plan: Plan) -> int:
    """Templates that one ciphertext of this plan's gallery holds."""
    return places(_size(plan), plan.parameters.slots)


def place_program(plan: Plan, place: int) -> Plan:
    """Takes a template as the network gives it to the template of a place, ready to be summed."""
    check_template_plan(plan)
    builder = _Builder(plan)
    value = builder.template(0)
    for k, offset in enumerate(spreading_rotations(_size(plan), plan.parameters.slots)):
        if place >> k & 1:
            value = builder.emit("rotate", value, offset=offset)
    builder.emit("output", value, tensor=0, part=0)
    placed = msgspec.structs.replace(plan.program.outputs[0], layout=0)
    return builder.plan("place", placed)


def match_program(plan: Plan, groups: int) -> Plan:
    """Takes a probe and the ciphertexts of `groups` groups of places to the cosines of all.

    Its inputs are the template "template" of the probe, as the network gives it, and "gallery",
    sums of placed templates; its output "scores" is (groups, places).
    """
    check_template_plan(plan)
    builder, slots = _Builder(plan), plan.parameters.slots
    probe = builder.template(0)
    for offset in spreading_rotations(_size(plan), slots):
        probe = builder.emit("add", probe, builder.emit("rotate", probe, offset=offset))
    probe = builder.emit("rescale", probe)
    for group in range(groups):
        stored = builder.emit("rescale", builder.template(1, group))
        value = builder.emit("mul", probe, stored)
        for offset in summing_rotations(_size(plan), slots):
            value = builder.emit("add", value, builder.emit("rotate", value, offset=offset))
        builder.emit("output", value, tensor=0, part=group)
    count = places_of(plan)
    layout = LayoutInfo(
        (groups, count),
        count,
        (DigitInfo(0, 1, groups, "ciphertext", 1), DigitInfo(1, 1, count, "slot", 1)),
        0,
    )
    output = OutputInfo(SCORES, (groups, count), len(builder.layouts), -1.0, 1.0)
    builder.layouts.append(layout)
    return builder.plan("match", output, groups)


def _size(plan: Plan) -> int:
    return math.prod(plan.program.outputs[0].shape)


def _layout(plan: Plan) -> Layout:
    return template_layout(plan.program.outputs[0].shape, plan.parameters.slots)


@dataclass
class _Builder:
    """Collects operations on values known by their position."""

    source: Plan
    operations: list[OperationInfo] = field(default_factory=list)
    layouts: list[LayoutInfo] = field(default_factory=list)

    def __post_init__(self) -> None:
        program = self.source.program
        self.layouts.append(program.layouts[program.outputs[0].layout])

    def emit(self, op: str, *operands: int, **attributes: Any) -> int:
        self.operations.append(OperationInfo(op, operands, attributes, 0))
        return len(self.operations) - 1

    def template(self, tensor: int, part: int = 0) -> int:
        """A template as the network gives it, or a sum of placed ones."""
        level, scale = output_type(self.source)
        return self.emit("input", tensor=tensor, part=part, level=level, scale=scale)

    def plan(self, name: str, output: OutputInfo, groups: int = 0) -> Plan:
        program = self.source.program
        template = program.outputs[0]
        ends = [InputInfo(TEMPLATE, template.shape, (ViewInfo(0, ""),), -1.0, 1.0)]
        if groups:
            # Only ciphertexts go in here: what they hold nobody encrypts, each is like a template.
            views = tuple(ViewInfo(0, "") for _ in range(groups))
            ends.append(InputInfo("gallery", template.shape, views, -1.0, 1.0))
        rotations = {
            info.attributes["offset"] % self.source.parameters.slots
            for info in self.operations
            if info.op == "rotate"
        }
        made = Plan(
            msgspec.structs.replace(
                program,
                model_name=f"{program.model_name}: {name}",
                batch=1,
                inputs=tuple(ends),
                outputs=(output,),
                layouts=tuple(self.layouts),
                keys=KeysInfo(tuple(sorted(rotations)), False, bool(groups)),
                maps=(),
                series=(),
                vectors=(),
                layers=(LayerInfo(name, "", name, -1.0, 1.0, 0, 0.0, None, 0, ()),),
                operations=tuple(self.operations),
            ),
            {},
        )
        made.validate()
        return made


def output_type(plan: Plan) -> tuple[int, float]:
    """(level, scale) of the templates that a plan's network gives."""
    number = next(n for n, info in enumerate(plan.program.operations) if info.op == "output")
    found = plan.types[number]
    return found.level, found.scale
