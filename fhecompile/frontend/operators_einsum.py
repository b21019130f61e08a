r"""Einsum.

    y[o] = sum over the letters not in o of  K[k] x_1[a_1] ... x_r[a_r],  K the constants' product

is a sum of products over all letters, the ones of the result first (`frontend.products`). K has the
letters that an x or y has too; those that only constants have are summed when K is made. What a
letter that x has twice means, and what the dots stand for, numpy does on the positions of the
elements: a view of their array.
"""

from __future__ import annotations

import re
import string
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fhecompile.frontend import maps
from fhecompile.frontend.lowering import (
    NodeLowering,
    Shape,
    Tensor,
    UnsupportedNodeError,
    Value,
)
from fhecompile.frontend.products import sum_of_products

FORM = re.compile(r"[A-Za-z]*(\.\.\.)?[A-Za-z]*")


def lower_einsum(call: NodeLowering) -> Tensor:
    """Einsum of any equation ONNX allows."""
    values = [call.value(i) for i in range(len(call.inputs))]
    names, result = _letters(call, [v.shape for v in values])
    lengths = _lengths(call, names, values)
    if any(letter not in lengths for letter in result) or len(set(result)) < len(result):
        call.invalid(f"equation {call.attribute('equation', '')}")
    encrypted = [(x, n) for x, n in zip(values, names, strict=True) if isinstance(x, Tensor)]
    letters = dict.fromkeys(c for _, name in encrypted for c in name)
    order = result + "".join(c for c in letters if c not in result)
    operands = []
    for x, name in encrypted:
        own = "".join(dict.fromkeys(name))
        index = np.einsum(f"{name}->{own}", maps.positions(x.shape))
        operands.append((x, _arranged(index, own, order)))
    others = [(x, n) for x, n in zip(values, names, strict=True) if not isinstance(x, Tensor)]
    known = "".join(dict.fromkeys(c for _, name in others for c in name if c in order))
    factors = np.ones((1,) * len(order))
    if others:
        equation = ",".join(name for _, name in others) + "->" + known
        product = np.einsum(equation, *(np.asarray(x, np.float64) for x, _ in others))
        factors = _arranged(np.asarray(product), known, order)
    shape = tuple(lengths[c] for c in result)
    return call.affine([sum_of_products(call, operands, factors, shape)], shape)


def _letters(call: NodeLowering, shapes: list[Shape]) -> tuple[list[str], str]:
    """Per operand and of the result one letter for every axis; the dots become letters, too."""
    equation = call.attribute("equation", "").replace(" ", "")
    left, arrow, right = equation.partition("->")
    names = left.split(",")
    if len(names) != len(shapes) or not all(FORM.fullmatch(n) for n in (*names, right)):
        call.invalid(f"equation {equation} for {len(shapes)} operands")
    counts = [len(s) - len(n.replace("...", "")) for n, s in zip(names, shapes, strict=True)]
    if any(c < 0 or (c and "..." not in n) for n, c in zip(names, counts, strict=True)):
        call.invalid(f"equation {equation} for operands of shape {shapes}")
    free = [c for c in string.ascii_letters if c not in equation]
    if max(counts) > len(free):
        raise UnsupportedNodeError("an equation with too many axes")
    dots = "".join(free[: max(counts)])
    if not arrow:
        once = sorted(c for c in set(left) - set(",.") if left.count(c) == 1)
        right = ("..." if "..." in left else "") + "".join(once)
    names = [n.replace("...", dots[len(dots) - c :]) for n, c in zip(names, counts, strict=True)]
    return names, right.replace("...", dots)


def _lengths(call: NodeLowering, names: list[str], values: list[Value]) -> dict[str, int]:
    lengths: dict[str, int] = {}
    for name, value in zip(names, values, strict=True):
        for letter, n in zip(name, value.shape, strict=True):
            known = lengths.setdefault(letter, n)
            if known != n and (1 not in (known, n) or name.count(letter) > 1):
                call.invalid(f"axes of {known} and {n} elements have the same letter")
            lengths[letter] = max(known, n)
    return lengths


def _arranged(array: NDArray[Any], names: str, order: str) -> NDArray[Any]:
    """The array with its axes in the order of `order`, of length 1 where it has none."""
    array = array.transpose([names.index(c) for c in order if c in names])
    sizes = iter(array.shape)
    return array.reshape([next(sizes) if c in names else 1 for c in order])
