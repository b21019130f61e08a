"""Diagonals are expanded when needed, one map ahead, and freed when the last one is taken."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from runtime.constants import ConstantStore
from tests.support import convolution_plan

PLAN = convolution_plan()
TERMS = [
    term
    for o in PLAN.program.operations
    if o.op == "dot_plain"
    for term in zip(o.attributes["maps"], o.attributes["diagonals"], strict=True)
]
MAPS = list(dict.fromkeys(number for number, _ in TERMS))


class Counted(ConstantStore):
    """Remembers the maps it has expanded."""

    def __init__(self) -> None:
        super().__init__(PLAN)
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


def test_freed_with_the_last_diagonal_and_expanded_again(store: Counted) -> None:
    for run in (1, 2):
        store.begin()
        for number, diagonal in TERMS:
            store.diagonal(number, diagonal)
        assert not store._maps
        assert sorted(store.expanded) == sorted(MAPS * run)


def test_maps_a_run_does_not_use_are_not_expanded(store: Counted) -> None:
    store.begin({MAPS[0]: 2})
    store.diagonal(MAPS[0], 0)
    assert list(store._maps) == [MAPS[0]]
    store.diagonal(MAPS[0], 1)
    assert not store._maps
    assert store.expanded == [MAPS[0]]


def test_a_map_whose_diagonals_are_all_taken_is_not_expanded_ahead(store: Counted) -> None:
    store.begin({MAPS[0]: 1, MAPS[1]: 1})
    store.diagonal(MAPS[1], 0)
    store.diagonal(MAPS[0], 0)
    assert store.expanded == [MAPS[1], MAPS[0]]
    assert not store._maps


def test_asking_whether_a_map_is_expanded_has_it_expanded(store: Counted) -> None:
    wait_until(lambda: store.is_expanded(MAPS[1]))
    assert store.expanded == [MAPS[1]]


def test_the_end_of_a_stopped_run_frees(store: Counted) -> None:
    store.diagonal(MAPS[0], 0)
    store.end()
    assert not store._maps


def test_close_frees(store: Counted) -> None:
    store.diagonal(MAPS[0], 0)
    store.close()
    assert not store._maps
