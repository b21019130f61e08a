"""Which keys operations need, their division into stages, and what is held when."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhecompile.ckks.bootstrap import refresh_rotations
from fhecompile.compile import compile
from fhecompile.plan import Plan
from models.zoo.catalogue import shipped_path
from runtime.key_stages import (
    CONJUGATION,
    REFRESH,
    RELINEARISATION,
    KeyNeeds,
    KeyStages,
    divide_operations,
    list_keys,
)
from tests.support import REFRESHING, convolution_plan

PLAN = convolution_plan()
NAMES = "abcdef"


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[tuple[str, ...]], dict[str, int], int]:
    """Needs, sizes, and bytes that suffice for every operation."""
    sizes = {name: draw(st.integers(1, 4)) for name in NAMES}
    needs = draw(st.lists(st.lists(st.sampled_from(NAMES), unique=True, max_size=4), max_size=12))
    least = max((sum(sizes[k] for k in names) for names in needs), default=0)
    return [tuple(names) for names in needs], sizes, least + draw(st.integers(0, 12))


def runs(needs: list[tuple[str, ...]], numbers: tuple[int, ...]) -> Iterator[set[str]]:
    """The keys of every stage."""
    for _, group in itertools.groupby(zip(numbers, needs, strict=True), lambda pair: pair[0]):
        yield {k for _, names in group for k in names}


def fewest(needs: list[tuple[str, ...]], sizes: dict[str, int], limit: int) -> int:
    """The fewest runs of operations with that much of keys, by trying all ends of the first."""

    @functools.cache
    def count(first: int) -> int:
        if first == len(needs):
            return 0
        held: set[str] = set()
        found = []
        for end in range(first, len(needs)):
            held.update(needs[end])
            if sum(sizes[k] for k in held) <= limit:
                found.append(1 + count(end + 1))
        return min(found)

    return count(0)


@given(problems())
def test_stages_fit_and_are_as_few_as_can_be(
    problem: tuple[list[tuple[str, ...]], dict[str, int], int],
) -> None:
    needs, sizes, limit = problem
    numbers = divide_operations(needs, sizes, limit)
    assert len(numbers) == len(needs)
    assert all(b - a in (0, 1) for a, b in itertools.pairwise((0, *numbers)))
    assert all(sum(sizes[k] for k in held) <= limit for held in runs(needs, numbers))
    assert len(set(numbers)) == fewest(needs, sizes, limit)


@given(problems(), st.integers(0, 8))
def test_what_is_held(
    problem: tuple[list[tuple[str, ...]], dict[str, int], int], more: int
) -> None:
    """A stage's keys first, then those used next; a key left out is used later than all of them."""
    needs, sizes, limit = problem
    numbers = divide_operations(needs, sizes, limit)
    stages = KeyStages(numbers, tuple(needs), sizes, limit + more)
    assert stages.count == len(set(numbers))
    assert [set(names) for names in stages.keys] == list(runs(needs, numbers))
    for stage in range(stages.count):
        wanted = stages.wanted(stage)
        assert len(set(wanted)) == len(wanted)
        assert set(wanted[: len(stages.keys[stage])]) == set(stages.keys[stage])
        assert sum(sizes[k] for k in wanted) <= limit + more
        in_order: dict[str, None] = {}
        for s in [*range(stage, stages.count), *range(stage)]:
            in_order |= dict.fromkeys(stages.keys[s])
        assert wanted == list(in_order)[: len(wanted)]
        if len(wanted) < len(in_order):
            following = list(in_order)[len(wanted)]
            assert sum(sizes[k] for k in (*wanted, following)) > limit + more


def test_an_operation_that_needs_more() -> None:
    with pytest.raises(ValueError, match=r"^an operation needs 5 bytes of keys, not 4$"):
        divide_operations([("a",), ("a", "b")], {"a": 2, "b": 3}, 4)


def test_needs_of_a_leveled_plan() -> None:
    needs = KeyNeeds.of(PLAN)
    named = list_keys(PLAN.program.keys)
    assert {k for names in needs.operations for k in names} == set(named) - {RELINEARISATION}
    assert set(needs.sizes.values()) == {PLAN.parameters.key_bytes}
    assert needs.all == len(named) * PLAN.parameters.key_bytes
    assert needs.least == 2 * PLAN.parameters.key_bytes  # one rotation, and relinearisation
    with pytest.raises(ValueError, match=f"an operation needs {needs.least}$"):
        needs.divide(needs.least - 1)
    assert needs.divide(needs.all).count == 1
    # Half for a stage as soon as that is enough for every operation.
    stages = needs.divide(7 * PLAN.parameters.key_bytes)
    assert stages.held_bytes == 6 * PLAN.parameters.key_bytes
    assert max(len(names) for names in stages.keys) == 3


def test_offsets_are_those_of_keys() -> None:
    """Offsets in a plan may be negative or zero, keys are for [1, slots)."""
    slots = PLAN.parameters.slots
    operations = list(PLAN.program.operations)
    number = next(k for k, info in enumerate(operations) if info.op == "rotate_hoisted")
    for offset, expected in ((-1, (f"rotation by {slots - 1}",)), (0, ()), (slots, ())):
        changed = msgspec.structs.replace(operations[number], attributes={"offset": offset})
        operations[number] = changed
        program = msgspec.structs.replace(PLAN.program, operations=tuple(operations))
        assert KeyNeeds.of(Plan(program, PLAN.arrays)).operations[number] == expected


def test_needs_of_a_refresh() -> None:
    model = shipped_path("digits_relu_mlp")
    plan = compile(
        model,
        calibration=model.parent / "digits_calibration.npz",
        passes=REFRESHING,
        ring_dimension=2048,
        insecure_toy=True,
        precision_bits=5.0,
    )
    needs, size = KeyNeeds.of(plan), plan.parameters.key_bytes
    (slots,) = plan.program.keys.refreshes
    bootstrap = plan.parameters.bootstrap
    assert bootstrap is not None
    rotations = refresh_rotations(bootstrap, slots, plan.parameters.slots)
    (refreshed,) = [
        names
        for names, info in zip(needs.operations, plan.program.operations, strict=True)
        if info.op == "refresh"
    ]
    assert set(refreshed) == {REFRESH, CONJUGATION} | {f"rotation by {r}" for r in rotations}
    assert needs.sizes[REFRESH] == 2 * size
    assert needs.least == (len(rotations) + 4) * size
    assert needs.all == plan.program.keys.count * size
