"""The operations of a plan as text, one per line, for people and for comparing two plans.

    %7 = dot_plain %3 %4 maps=[0,0] diagonals=[0,1] scales=[31,31] rotation=0 : ciphertext 0 2^62

is operation 7 with operands 3 and 4, its attributes, and its value's kind, level and scale.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fhecompile.plan.plan import Plan


def operation_lines(plan: Plan) -> Iterator[str]:
    """One line per operation, in order; a comment line opens every run of one layer."""
    layer = -1
    for number, (info, kind) in enumerate(zip(plan.program.operations, plan.types, strict=True)):
        if info.layer != layer:
            layer = info.layer
            made_of = plan.program.layers[layer]
            yield f"# {made_of.name} ({made_of.op}) {made_of.source}".rstrip()
        operands = "".join(f" %{i}" for i in info.inputs)
        attributes = "".join(f" {name}={_text(value)}" for name, value in info.attributes.items())
        yield (
            f"%{number} = {info.op}{operands}{attributes}"
            f" : {kind.kind} {kind.level} 2^{kind.scale:.6g}"
        )


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{','.join(_text(v) for v in value)}]"
    return f"{value:.9g}" if isinstance(value, float) else str(value)
