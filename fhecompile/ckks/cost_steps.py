r"""The steps that operations are made of, and how many primes each works on.

With p primes of Q left in the operand, k special primes and d = ceil(p / ceil((L + 1) / digits))
digits in use, a step works on this many primes:

    raise      p + d (p + k)   the digits of a ciphertext, each raised to the basis QP
    key        2 d (p + k)     products with both halves of an evaluation key
    lower      2 (p + k)       division by P
    add_qp     p + k           sum in the basis QP
    others     p
"""

from __future__ import annotations

import math

from fhecompile.ckks.parameters import Parameters

_KEY_SWITCH = ("raise", "key", "lower")
STEPS: dict[str, tuple[str, ...]] = {
    "input": (),
    "output": (),
    "rotate": _KEY_SWITCH,
    "conjugate": _KEY_SWITCH,
    "hoist": ("raise",),
    "rotate_hoisted": ("key", "lower"),
    "rotate_sum": (*_KEY_SWITCH, "add"),  # per rotated term
    "rotate_extended": ("raise", "key"),
    "rotate_hoisted_extended": ("key",),
    "add_extended": ("add_qp",),
    "key_switch_down": ("lower",),
    "dot_plain": ("encode", "multiply", "add"),  # per term
    "mul_plain": ("encode", "multiply"),
    "add_plain": ("encode", "add"),
    "add": ("add",),
    "sub": ("add",),
    "negate": ("add",),
    "mul": ("tensor", *_KEY_SWITCH),
    "square": ("tensor", *_KEY_SWITCH),
    "mul_i": ("multiply",),
    "keep_even": ("multiply",),
    "rescale": ("rescale",),
    "drop_level": ("copy",),
    "relabel": (),
    "scale_up": ("multiply",),
    "refresh": (),  # `fhecompile.ckks.refresh_cost`
}


def step_primes(op: str, level: int, parameters: Parameters) -> dict[str, int]:
    """How many primes each step of an operation of one term works on, by step."""
    left = parameters.levels + 1 - level
    primes: dict[str, int] = {}
    for step in STEPS[op]:
        primes[step] = primes.get(step, 0) + primes_of(step, left, parameters)
    return primes


def ring_unit(parameters: Parameters) -> float:
    """unit(N) of the module docstring."""
    n = parameters.ring_dimension
    return n * math.log2(n) / (2**16 * 16)


def primes_of(step: str, left: int, parameters: Parameters) -> int:
    """Primes that one step works on when `left` are left in its operand."""
    extended = left + parameters.special_primes
    digits = math.ceil(left / math.ceil((parameters.levels + 1) / parameters.digits))
    table = {
        "raise": left + digits * extended,
        "key": 2 * digits * extended,
        "lower": 2 * extended,
        "add_qp": extended,
    }
    return table.get(step, left)
