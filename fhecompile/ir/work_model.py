r"""Predicts the seconds of an evaluation before any layout exists, to compare parameters.

    map      P = multiply-accumulates / (2 slots) products, the floor; rotations of the
             ideal split; two key switches per ciphertext to undo the packing
    square   one product per ciphertext
    refresh  of all slots that the value needs (`fhecompile.ckks.refresh_cost`)

each at the level the scale plan says, on one thread.
"""

from __future__ import annotations

import math
from functools import lru_cache

from fhecompile.ckks.bsgs import ideal_seconds, rotation_costs
from fhecompile.ckks.cost import operation_seconds
from fhecompile.ckks.layout import next_power_of_two
from fhecompile.ckks.operations import ValueType
from fhecompile.ckks.parameters import Parameters
from fhecompile.ckks.refresh_cost import refresh_seconds
from fhecompile.ir.scales import ScalePlan
from fhecompile.ir.tensor import Affine, Mul, Node, Poly, Refresh, TensorGraph, is_product_free


def predict_work(graph: TensorGraph, plan: ScalePlan, parameters: Parameters) -> float:
    """Thread-seconds of one evaluation at these parameters."""
    return sum(
        node_seconds(node, max((plan.level[name] for name in node.inputs), default=0), parameters)
        for node in graph
    )


def node_seconds(node: Node, level: int, parameters: Parameters) -> float:
    """Thread-seconds of one node with its operands at a level."""
    slots = parameters.slots
    ciphertexts = math.ceil(node.size / slots)
    if isinstance(node, Affine) and not is_product_free(node):
        c = rotation_costs(parameters, level)
        products = max(1.0, sum(m.multiply_accumulates() for m in node.maps) / (2 * slots))
        seconds = products * c.product + ideal_seconds(products, c)
        return seconds + ciphertexts * (c.hoist + c.down + 2 * c.rotate)
    if isinstance(node, Refresh):
        return value_refresh_seconds(node.size, node.terms, parameters)
    if isinstance(node, Mul) or (isinstance(node, Poly) and node.degree > 1):
        return ciphertexts * _square_seconds(level, parameters)
    return 0.0


def value_refresh_seconds(size: int, terms: int, parameters: Parameters) -> float:
    """Thread-seconds of refreshing a value of so many elements by a series of so many terms."""
    used = min(parameters.slots, next_power_of_two(size))
    return math.ceil(size / parameters.slots) * _refresh_seconds(parameters, used, terms)


@lru_cache(1 << 12)
def _square_seconds(level: int, parameters: Parameters) -> float:
    return operation_seconds("square", [ValueType("ciphertext", level, 0.0)], {}, parameters)


@lru_cache(1 << 12)
def _refresh_seconds(parameters: Parameters, slots: int, terms: int) -> float:
    return refresh_seconds(parameters, slots, terms)
