r"""What of a run is worth keeping, and when: the states that a run can go on from.

Operations are the nodes of a graph; D are those of an image that are done, V the values that some
other operation still needs, of which the ciphertexts C can be written. Digits and extended
ciphertexts cannot, and an operation under way counts as not done, its operands being in V. A run
can go on from C if what it has to do again, R, is the least set with

    V \ C  is in R
    i in R, j an operand of i, j not in C   =>   j in R

because then every operand of an operation outside D \ R is in C or is made again. R is found from
V \ C backwards; hoisted digits cost nothing but themselves, as their ciphertext is needed as long
as they are. The snapshot is D \ R, C, and the outputs so far.

One is due after a refresh, after `CHECKPOINT_SECONDS` without one, and when an image is done. It is
taken as soon as R is no more than half of the predicted work since the last one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from runtime.backends.base import OperationNode

CHECKPOINT_SECONDS = 60.0
LOST_SHARE = 0.5  # of the work since the last snapshot, which the next one may leave out

Part = tuple[int, int]  # (tensor, part)


@dataclass(frozen=True, eq=False)
class Snapshot:
    """The state of one image: operations done, ciphertexts needed by others, outputs."""

    done: frozenset[int]
    values: Mapping[int, Any]
    outputs: Mapping[Part, Any]


class Keeper(Protocol):
    """Where the snapshots of a run's images are kept."""

    def load(self, image: int) -> Snapshot | None:
        """The state that an image goes on from; None: from the start."""

    def save(self, image: int, snapshot: Snapshot) -> None:
        """Keeps a state in place of earlier ones."""


def to_do_again(
    nodes: Sequence[OperationNode],
    weights: Sequence[float],
    needed: Mapping[int, Any],
    limit: float,
) -> set[int] | None:
    """R of the module docstring; None if its operations weigh more than `limit`.

    Args:
        nodes: all operations.
        weights: their predicted seconds.
        needed: by the number of their operation, the values that others still need.
        limit: in predicted seconds.
    """
    again: set[int] = set()
    found = [number for number in needed if nodes[number].type.kind != "ciphertext"]
    while found:
        number = found.pop()
        if number in again:
            continue
        again.add(number)
        limit -= weights[number]
        if limit < 0:
            return None
        for operand in nodes[number].inputs:
            if operand not in needed or nodes[operand].type.kind != "ciphertext":
                found.append(operand)
    return again


def is_whole(nodes: Sequence[OperationNode], snapshot: Snapshot) -> bool:
    """Whether a run of these operations can go on from a snapshot."""
    return all(
        operand in snapshot.values or operand not in snapshot.done
        for node in nodes
        if node.number not in snapshot.done
        for operand in node.inputs
    ) and all(
        (node.attributes["tensor"], node.attributes["part"]) in snapshot.outputs
        for node in nodes
        if node.op == "output" and node.number in snapshot.done
    )


@dataclass
class _Image:
    """One image: what is done, since when nothing was kept, and how much work that is."""

    done: set[int] = field(default_factory=set)
    gained: float = 0.0
    kept_at: float = 0.0
    due: bool = False
    saving: bool = False


class Recorder:
    """Takes the snapshots of one run of several images.

    Args:
        nodes: all operations.
        weights: their predicted seconds.
        keeper: where snapshots are kept.
        first: the keeper's number of the run's first image.
        clock: seconds; for tests.
    """

    def __init__(
        self,
        nodes: Sequence[OperationNode],
        weights: Sequence[float],
        keeper: Keeper,
        first: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.nodes, self.weights, self.keeper, self.first = nodes, weights, keeper, first
        self._clock = clock
        self._images: dict[int, _Image] = {}

    def restore(self, image: int) -> Snapshot | None:
        """The state an image goes on from, or None; called for each image before the run."""
        snapshot = self.keeper.load(self.first + image)
        done = set() if snapshot is None else set(snapshot.done)
        self._images[image] = _Image(done, kept_at=self._clock())
        return snapshot

    def take(
        self,
        node: OperationNode,
        image: int,
        needed: Mapping[int, Any],
        outputs: Mapping[Part, Any],
    ) -> Snapshot | None:
        """What is to be saved now that an operation is done; calls exclude each other.

        Args:
            node: the operation.
            image: its image.
            needed: see `to_do_again`.
            outputs: those of the image so far.
        """
        state, now = self._images[image], self._clock()
        state.done.add(node.number)
        state.gained += self.weights[node.number]
        is_last = len(state.done) == len(self.nodes)
        is_late = now - state.kept_at >= CHECKPOINT_SECONDS
        state.due = state.due or node.op == "refresh" or is_last or is_late
        if not state.due or state.saving:
            return None
        again = to_do_again(self.nodes, self.weights, needed, LOST_SHARE * state.gained)
        if again is None:
            return None
        state.gained = sum(self.weights[number] for number in again)
        state.kept_at, state.due, state.saving = now, False, True
        values = {n: v for n, v in needed.items() if self.nodes[n].type.kind == "ciphertext"}
        return Snapshot(frozenset(state.done - again), values, dict(outputs))

    def save(self, image: int, snapshot: Snapshot) -> None:
        """Has a snapshot kept; other images, and other operations of this one, need not wait."""
        try:
            self.keeper.save(self.first + image, snapshot)
        finally:
            self._images[image].saving = False
