r"""Which evaluation keys the operations of a plan need, and stages whose keys fit in memory.

    rotation by r (r != 0 modulo the slots)   `rotation by r`
    conjugation                               `conjugation`
    refresh                                   its rotations (`refresh_rotations`), `conjugation`
                                              and `refresh`: two keys, to a sparse secret and back
    products                                  `relinearisation`

Names are those of the entries of a file of evaluation keys. A refresh is one call of OpenFHE and
needs all of its keys at once. The relinearisation key is of every stage: stages are of the others,
the automorphism keys. With u(k) bytes of key k and need(i) the keys of operation i, operations
1 ... n in the plan's order are cut into runs that are as long as possible:

    stage(1) = 1,   stage(i) = stage(i-1)      if u(need(first) | ... | need(i)) <= S
                               stage(i-1) + 1  otherwise

and no division into runs with that much of keys has fewer. The least that S can be is
max_i u(need(i)).

At most B >= S bytes of keys are in memory: those of the present stage s, and behind it of the next
ones in the order of their use, s, s + 1, ..., back to the first stage for the next run, up to s
again, as far as B reaches. That is the order of Belady (1966): what is dropped is needed latest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from fhecompile.ckks.bootstrap import refresh_rotations
from fhecompile.ckks.operations import automorphisms
from fhecompile.ckks.parameters import Parameters
from fhecompile.plan import Plan
from fhecompile.plan.schema import KeysInfo, OperationInfo

CONJUGATION = "conjugation"
RELINEARISATION = "relinearisation"
REFRESH = "refresh"  # both keys that refreshes need to switch to a sparse secret and back
SWITCHING_KEYS = 2
READ_KEYS = 1  # the bytes of a key, from which it is made


def rotation_name(offset: int) -> str:
    """The name of the key that rotates by an offset in [1, slots)."""
    return f"rotation by {offset}"


def list_keys(keys: KeysInfo) -> list[str]:
    """Names of all keys of a plan."""
    names = [rotation_name(r) for r in keys.rotations]
    names += [CONJUGATION] if keys.conjugation or keys.refreshes else []
    names += [REFRESH] if keys.refreshes else []
    return names + ([RELINEARISATION] if keys.relinearisation else [])


def key_sizes(plan: Plan) -> dict[str, int]:
    """Bytes in memory of every key of a plan, by name."""
    size = plan.parameters.key_bytes
    return {
        name: SWITCHING_KEYS * size if name == REFRESH else size
        for name in list_keys(plan.program.keys)
    }


def needed_keys(plan: Plan) -> list[tuple[str, ...]]:
    """Names of the automorphism keys that each operation of a plan needs."""
    refreshing: dict[int, tuple[str, ...]] = {}
    for slots in plan.program.keys.refreshes:
        refreshing[slots] = _refresh_keys(plan.parameters, slots)
    return [_needed(info, plan.parameters, refreshing) for info in plan.program.operations]


def _needed(
    info: OperationInfo, parameters: Parameters, refreshing: Mapping[int, tuple[str, ...]]
) -> tuple[str, ...]:
    if info.op == "refresh":
        return refreshing[info.attributes["slots"]]
    if info.op == "conjugate":
        return (CONJUGATION,)
    offsets = [r % parameters.slots for r in automorphisms(info.op, info.attributes)]
    return tuple(dict.fromkeys(rotation_name(r) for r in offsets if r))


def _refresh_keys(parameters: Parameters, slots: int) -> tuple[str, ...]:
    assert parameters.bootstrap is not None
    rotations = sorted(refresh_rotations(parameters.bootstrap, slots, parameters.slots))
    return (REFRESH, CONJUGATION, *(rotation_name(r) for r in rotations))


@dataclass(frozen=True)
class KeyNeeds:
    """What a plan needs of keys, and how many bytes that is."""

    operations: tuple[tuple[str, ...], ...]
    sizes: Mapping[str, int]

    @staticmethod
    def of(plan: Plan) -> KeyNeeds:
        """The needs of a plan."""
        return KeyNeeds(tuple(needed_keys(plan)), key_sizes(plan))

    @property
    def always(self) -> int:
        """Bytes of what is of every stage: the relinearisation key."""
        return self.sizes.get(RELINEARISATION, 0)

    @cached_property
    def least(self) -> int:
        """The fewest bytes of keys with which the plan runs."""
        return self.always + max(
            (sum(self.sizes[k] for k in names) for names in self.operations), default=0
        )

    @property
    def all(self) -> int:
        """Bytes of all keys."""
        return sum(self.sizes.values())

    def divide(self, held_bytes: int) -> KeyStages:
        """Stages with which no more than `held_bytes` of keys are in memory.

        A stage takes half of them, so that the next one's keys are read while it runs; more where
        one operation needs more, all where that is one stage. ValueError below `least`.
        """
        if held_bytes < self.least:
            raise ValueError(f"{held_bytes} bytes of keys, an operation needs {self.least}")
        room = held_bytes - self.always
        stage_bytes = room if held_bytes >= self.all else max(self.least - self.always, room // 2)
        return KeyStages(
            divide_operations(self.operations, self.sizes, stage_bytes),
            self.operations,
            self.sizes,
            room,
        )


def divide_operations(
    needs: Sequence[Sequence[str]], sizes: Mapping[str, int], stage_bytes: int
) -> tuple[int, ...]:
    """The stage of every operation, from 0 on; see the module docstring.

    Args:
        needs: names of the keys of each operation.
        sizes: bytes by name.
        stage_bytes: of the keys of a stage at most; ValueError where one operation needs more.
    """
    stages: list[int] = []
    stage, filled = 0, 0
    held: set[str] = set()
    for names in needs:
        added = sum(sizes[k] for k in names if k not in held)
        if filled + added > stage_bytes:
            stage, filled, held = stage + 1, 0, set()
            added = sum(sizes[k] for k in names)
            if added > stage_bytes:
                raise ValueError(f"an operation needs {added} bytes of keys, not {stage_bytes}")
        held.update(names)
        filled += added
        stages.append(stage)
    return tuple(stages)


@dataclass(frozen=True)
class KeyStages:
    """A division of a plan's operations by the automorphism keys they need.

    Args:
        numbers: the stage of every operation, ascending from 0.
        needs: names of the keys of every operation.
        sizes: bytes by name.
        held_bytes: of automorphism keys in memory at most.
    """

    numbers: tuple[int, ...]
    needs: tuple[tuple[str, ...], ...]
    sizes: Mapping[str, int]
    held_bytes: int

    @cached_property
    def keys(self) -> tuple[tuple[str, ...], ...]:
        """Names of the keys of every stage, in the order of their first use."""
        found: list[dict[str, None]] = [{} for _ in range(self.count)]
        for stage, names in zip(self.numbers, self.needs, strict=True):
            found[stage].update(dict.fromkeys(names))
        return tuple(tuple(names) for names in found)

    @property
    def count(self) -> int:
        """Number of stages."""
        return self.numbers[-1] + 1 if self.numbers else 0

    def wanted(self, stage: int) -> list[str]:
        """Names of the keys to hold in a stage, those needed first in front."""
        found: dict[str, None] = {}
        filled = 0
        for ahead in range(self.count):
            for name in self.keys[(stage + ahead) % self.count]:
                if name in found:
                    continue
                filled += self.sizes[name]
                if filled > self.held_bytes:
                    return list(found)
                found[name] = None
        return list(found)
