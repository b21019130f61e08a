r"""How many slots the refreshes of a plan have.

A refresh of s slots does for values of every period up to s, and one of fewer slots is faster. But
each number of slots has encoded transforms of its own, a gigabyte or more, and rotations that
others do not have. With n_p ciphertexts of period p to refresh and a set S of numbers of slots,

    seconds(S) = sum_p n_p refresh_seconds(min {s in S: s >= p})
    bytes(S)   = sum_{s in S} transforms(s) + (rotations of all of S) (bytes of a key)

S starts with the largest period, and what is added is what makes seconds sqrt(bytes) least, while
that falls.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

from fhecompile.ckks.bootstrap import LEAST_SLOTS, refresh_rotations
from fhecompile.ckks.layout import Layout
from fhecompile.ckks.parameters import Parameters
from fhecompile.ckks.refresh_cost import refresh_plaintext_bytes, refresh_seconds


def choose_slots(refreshed: Iterable[Layout], parameters: Parameters) -> dict[int, int]:
    """The slots that values of each period are refreshed with.

    Args:
        refreshed: layouts of the values that are refreshed.
        parameters: with a bootstrap, where there are any.
    """
    counts: Counter[int] = Counter()
    for layout in refreshed:
        counts[layout.period] += layout.ciphertexts
    bootstrap = parameters.bootstrap
    if not counts or bootstrap is None:
        return {}
    wanted = {p: min(parameters.slots, max(LEAST_SLOTS, p)) for p in counts}

    def slots_of(period: int, chosen: Iterable[int]) -> int:
        return min(s for s in chosen if s >= wanted[period])

    def cost(chosen: frozenset[int]) -> float:
        seconds = sum(
            count * refresh_seconds(parameters, slots_of(p, chosen), bootstrap.terms)
            for p, count in counts.items()
        )
        rotations: set[int] = set()
        for s in chosen:
            rotations |= refresh_rotations(bootstrap, s, parameters.slots)
        transforms = sum(refresh_plaintext_bytes(parameters, s) for s in chosen)
        return seconds * math.sqrt(transforms + len(rotations) * parameters.key_bytes)

    best = frozenset([max(wanted.values())])
    while more := set(wanted.values()) - best:
        found = min((best | {s} for s in sorted(more)), key=cost)
        if cost(found) >= cost(best):
            break
        best = found
    return {p: slots_of(p, best) for p in counts}
