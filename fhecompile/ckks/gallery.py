r"""Galleries: how unit vectors are laid out to be compared with one another under encryption.

A template is a unit vector of n elements, padded to E = 2^k >= n. In S slots each element e has a
slot of its own among the multiples of w = S / E (`template_layout` says which; here e w), and all
other slots are zero, so that w templates fit one ciphertext: that of
place p is rotated by p to the right, and the sum of them holds element e of place p in slot
e w + p. With a probe x rotated to all places and summed, g the gallery's ciphertext,

    (x * g)[e w + p] = x_e g_pe,    summed over e:    slot p, and every p + e w, holds <x, g_p>,

the cosine of probe and template. Rotations by -1, -2, -4, ... spread the probe, and those by w, 2w,
4w, ... sum cyclically over e: log2(S) in all, and no slot is left with a partial sum.

A template leaves the network one level before that of scores, at scale 2^(q + t), q the size of a
prime and t = `TEMPLATE_BITS`. Rotations and the sum of a ciphertext's templates come first, whose
noise is nothing at that scale: at 2^t each of w templates would add its own in every slot. Then
probe and sum are rescaled to 2^t. Products are at 2^(2t) there: at the last level they are below
half of a first prime of 60 bits as long as a score is below 2^(59 - 2t). Where the first prime is
smaller, as in networks with refreshes, scores keep rescaling primes beside it for the same room.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from fhecompile.ckks.layout import Digit, Layout, next_power_of_two
from fhecompile.ckks.parameters import Parameters

TEMPLATE_BITS = 28
SCORE_BITS = 60  # that scores take, as above


def template_layout(shape: Sequence[int], slots: int) -> Layout:
    """Where a template's elements are; all axes but one have length 1, slots >= elements.

    Of E >= elements, w places: e = r + w b goes to slot (r E / w + b) w if w < E. A vector repeated
    with period E in consecutive slots gets there by the rotations by 0, 1, .., w - 1.
    """
    size = math.prod(shape)
    axis = max(range(len(shape)), key=lambda a: shape[a])
    width = places(size, slots)
    padded = next_power_of_two(size)
    if width >= padded:
        return Layout(tuple(shape), slots, slots, (Digit(axis, 1, padded, "slot", width),))
    digits = (
        Digit(axis, 1, width, "slot", padded),
        Digit(axis, width, padded // width, "slot", width),
    )
    return Layout(tuple(shape), slots, slots, digits)


def places(size: int, slots: int) -> int:
    """Templates of `size` elements that one ciphertext holds."""
    return slots // next_power_of_two(size)


def spreading_rotations(size: int, slots: int) -> list[int]:
    """Offsets that bring what is in place 0 to every place, by rotating and adding in turn."""
    return [-(1 << k) for k in range(places(size, slots).bit_length() - 1)]


def summing_rotations(size: int, slots: int) -> list[int]:
    """Offsets that sum over the elements of each place, by rotating and adding in turn."""
    stride, found = places(size, slots), []
    while stride < slots:
        found.append(stride)
        stride *= 2
    return found


def gallery_rotations(size: int, slots: int) -> set[int]:
    """All offsets that a gallery's keys are for, in [1, slots)."""
    offsets = [*spreading_rotations(size, slots), *summing_rotations(size, slots)]
    return {offset % slots for offset in offsets}


def template_scale(parameters: Parameters) -> tuple[int, float]:
    """Largest (level, scale) at which a template leaves the network; the scale may be less by 1."""
    kept = _kept_primes(parameters.prime_bits, parameters.first_prime_bits)
    return parameters.levels - 1 - kept, float(parameters.prime_bits + TEMPLATE_BITS)


def template_levels(level: int, scale: float, prime_bits: int, first_prime_bits: int) -> int:
    """Rescaling primes that let a value of this level and scale be made a template."""
    rescales = max(0, math.ceil((scale - (prime_bits + TEMPLATE_BITS)) / prime_bits))
    return level + 1 + rescales + _kept_primes(prime_bits, first_prime_bits)


def _kept_primes(prime_bits: int, first_prime_bits: int) -> int:
    """Rescaling primes that scores have room in beside the first prime."""
    return max(0, math.ceil((SCORE_BITS - first_prime_bits) / prime_bits))
