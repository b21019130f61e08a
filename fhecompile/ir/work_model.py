r"""Predicts the seconds of an evaluation before any layout exists, to compare parameters.

    map      P = multiply-accumulates / (2 slots) products, the floor; rotations of the
             ideal split; two key switches per ciphertext to undo the packing
    square   one product per ciphertext

each at the level the scale plan says, on one thread.
"""

from __future__ import annotations

import math

from fhecompile.ckks.bsgs import ideal_seconds, rotation_costs
from fhecompile.ckks.cost import operation_seconds
from fhecompile.ckks.operations import ValueType
from fhecompile.ckks.parameters import Parameters
from fhecompile.ir.scales import ScalePlan
from fhecompile.ir.tensor import Affine, Mul, Poly, TensorGraph, is_product_free


def predict_work(graph: TensorGraph, plan: ScalePlan, parameters: Parameters) -> float:
    """Thread-seconds of one evaluation at these parameters."""
    slots = parameters.slots
    seconds = 0.0
    for node in graph:
        level = max((plan.level[name] for name in node.inputs), default=0)
        ciphertexts = math.ceil(node.size / slots)
        if isinstance(node, Affine) and not is_product_free(node):
            c = rotation_costs(parameters, level)
            products = max(1.0, sum(m.multiply_accumulates() for m in node.maps) / (2 * slots))
            seconds += products * c.product + ideal_seconds(products, c)
            seconds += ciphertexts * (c.hoist + c.down + 2 * c.rotate)
        elif isinstance(node, Mul) or (isinstance(node, Poly) and node.degree > 1):
            x = ValueType("ciphertext", level, 0.0)
            seconds += ciphertexts * operation_seconds("square", [x], {}, parameters)
    return seconds
