r"""What fitted functions change about every value of a network, as a fact.

With v a value of the network on calibration samples and v' the same value behind fitted functions,
a share is  rms(v' - v) / (max v - min v). Passes that come later shift and scale values (centres,
leading coefficients), which a share survives: times the range that the value has in the end it is
the rms error in its unit. Refreshes of values as they are, are placed in the lowered graph; what
their series change is independent of what functions do.

Values inside of a polynomial, its powers and partial sums, have no exact counterpart; nor has the
whole function in a refresh of which a node takes shares, None in `functions`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from fhecompile.ir.tensor import Affine, Node, Output, Poly, Refresh, TensorGraph


@dataclass(frozen=True)
class FittedErrors:
    """Shares by node's name: of fitted functions, and of refreshes of values as they are."""

    functions: Mapping[str, float | None] = field(default_factory=dict)
    refreshes: Mapping[str, float] = field(default_factory=dict)

    def by_layer(self, graph: TensorGraph) -> dict[str, float | None]:
        """The share of every value of the final graph; None where there is none to tell."""
        shares: dict[str, float | None] = {}
        for node in graph:
            share = self.functions.get(node.name) if self.functions else 0.0
            if self.functions and node.name not in self.functions and _keeps_share(node):
                share = shares[node.inputs[0]]
            shares[node.name] = share
        return {
            name: None if share is None else math.hypot(share, self.refreshes.get(name, 0.0))
            for name, share in shares.items()
        }


def _keeps_share(node: Node) -> bool:
    """Whether the value is that of its operand in another place or unit."""
    if isinstance(node, Affine):
        return len(node.inputs) == 1 and node.identity_weight is not None
    return isinstance(node, Refresh | Output) or (isinstance(node, Poly) and node.degree == 1)
