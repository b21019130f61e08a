"""Diagonals are expanded when needed, one map ahead, and freed after their last operation."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from runtime.constants import ConstantStore
from tests.support import convolution_plan

PLAN = convolution_plan()
MAPS = list(
    dict.fromkeys(
        m for o in PLAN.program.operations if o.op == "dot_plain" for m in o.attributes["maps"]
    )
)


class Counted(ConstantStore):
    """Counts expansions by map."""

    def __init__(self, keep: bool = False) -> None:
        super().__init__(PLAN, keep)
        self.expanded: list[int] = []

    def _expand(self, number: int) -> np.ndarray:
        self.expanded.append(number)
        return super()._expand(number)


@pytest.fixture
def store() -> Iterator[Counted]:
    made = Counted()
    yield made
    made.close()


def wait_until(done: Callable[[], bool]) -> None:
    for _ in range(500):
        if done():
            return
        time.sleep(0.01)
    raise AssertionError("never happened")


def use_all(store: ConstantStore) -> None:
    """What one run asks for."""
    for o in PLAN.program.operations:
        if o.op == "dot_plain":
            for number, diagonal in zip(
                o.attributes["maps"], o.attributes["diagonals"], strict=True
            ):
                store.diagonal(number, diagonal)
            store.done(o.attributes["maps"])


def test_diagonals(store: Counted) -> None:
    diagonal_map, wanted = PLAN.maps[MAPS[0]]
    expected = diagonal_map.expand(wanted)
    for k in range(len(wanted)):
        assert np.array_equal(store.diagonal(MAPS[0], k), expected[k])
    assert store.expanded.count(MAPS[0]) == 1


def test_next_map_is_expanded_ahead(store: Counted) -> None:
    assert len(MAPS) >= 2
    store.diagonal(MAPS[0], 0)
    wait_until(lambda: len(store.expanded) == 2)
    assert store.expanded == MAPS[:2]


def test_freed_after_the_last_operation_and_expanded_again(store: Counted) -> None:
    for run in (1, 2):
        use_all(store)
        assert not store._maps
        assert sorted(store.expanded) == sorted(MAPS * run)


def test_kept_between_runs() -> None:
    store = Counted(keep=True)
    for _ in range(2):
        use_all(store)
    store.close()
    assert sorted(store.expanded) == sorted(MAPS)


def test_close_frees(store: Counted) -> None:
    store.diagonal(MAPS[0], 0)
    store.close()
    assert not store._maps
