"""Encoded constants of a plan: encoded once for all images of a run, ahead of their use, or kept.

Encoding does not depend on ciphertexts, and it is most of the time of a plaintext product. So

    once    the images of a run share a plaintext, and so do operations with equal constants
            (`fhecompile.plan.constants`): the first operation that needs it encodes it, and it is
            dropped when the last one of the last image has taken it
    ahead   a thread with nothing to run encodes the next plaintexts in the plan's order, as long as
            all plaintexts held take no more than `ahead_bytes`
    kept    the first plaintexts of the plan, up to `cache_bytes`, stay for later runs

Plaintexts that an image has used and others still need are held even beyond `ahead_bytes`, where
nothing is encoded ahead any more. Images are at most a stage apart (`divide_stages`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Protocol

from fhecompile.ckks.parameters import WORD_BYTES
from fhecompile.plan import Plan
from fhecompile.plan.constants import Term, group_constants
from runtime.trace import InnerTimes


@dataclass(frozen=True)
class PlaintextInfo:
    """One plaintext of a plan: the constant of a term of an operation, and of `others`."""

    operation: int
    term: int
    bytes: int
    others: tuple[Term, ...] = field(default=(), compare=False)


Use = tuple[int, PlaintextInfo]  # position of an operand, its plaintext


def list_plaintexts(plan: Plan) -> list[PlaintextInfo]:
    """All plaintexts of a plan in the order of its operations.

    One at level l has L + 1 - l primes of N words, and N more words: the slots it was made from.
    """
    p = plan.parameters
    found = []
    for (number, term), *others in group_constants(plan):
        primes = p.levels + 1 - plan.types[number].level
        size = (primes + 1) * p.ring_dimension * WORD_BYTES
        found.append(PlaintextInfo(number, term, size, tuple(others)))
    return found


def divide_stages(plan: Plan, stage_bytes: int) -> list[int]:
    """A stage number per operation: runs of operations with that much of plaintexts, or one."""
    sizes = [0] * len(plan.program.operations)
    for info in list_plaintexts(plan):
        sizes[info.operation] += info.bytes
    stages, stage, filled = [], 0, 0
    for size in sizes:
        if filled and size and filled + size > stage_bytes:
            stage, filled = stage + 1, 0
        filled += size
        stages.append(stage)
    return stages


class Encoder(Protocol):
    """Makes plaintexts; may be called on several threads at once."""

    def begin(self, wanted: Sequence[PlaintextInfo]) -> None:
        """A run starts that will encode each of these once."""

    def is_ready(self, info: PlaintextInfo) -> bool:
        """Whether `vector` would return at once; if not, has it prepared."""

    def vector(self, info: PlaintextInfo) -> Any:
        """What is to be encoded; may wait for it."""

    def encode(self, info: PlaintextInfo, vector: Any) -> Any:
        """The plaintext of a vector."""


class PlaintextStore:
    """See the module docstring; for one run at a time, between `begin` and `end`."""

    def __init__(
        self,
        plaintexts: Sequence[PlaintextInfo],
        encoder: Encoder,
        ahead_bytes: int = 0,
        cache_bytes: int = 0,
    ) -> None:
        self.ahead_bytes = ahead_bytes
        self.held_bytes = 0  # of plaintexts made or being made, without those to keep
        self._encoder = encoder
        self._order = tuple(plaintexts)
        self._terms: dict[int, list[Use]] = {}
        for info in self._order:
            for operation, term in ((info.operation, info.term), *info.others):
                self._terms.setdefault(operation, []).append((term, info))
        filled = accumulate(info.bytes for info in self._order)
        self._keep = {i for i, end in zip(self._order, filled, strict=True) if end <= cache_bytes}
        self._lock = threading.Lock()
        self._made: dict[PlaintextInfo, Future[Any]] = {}  # or being made
        self._begun: set[PlaintextInfo] = set()  # in this run or kept from an earlier one
        self._left: dict[PlaintextInfo, int] = {}  # uses that have not taken it yet
        self._cursor = 0
        self._times = InnerTimes()

    @property
    def kept_bytes(self) -> int:
        """Memory of the plaintexts that stay for later runs, made or being made."""
        with self._lock:
            return sum(info.bytes for info in self._made if info in self._keep)

    def begin(self, images: int, done: Mapping[int, int] | None = None) -> None:
        """A run starts in which each operation uses its constants once per image.

        Less often where `done` says by its number how many images are past it already.
        """
        past = done or {}
        self._left = {
            info: sum(
                images - past.get(operation, 0)
                for operation, _ in ((info.operation, info.term), *info.others)
            )
            for info in self._order
        }
        # Nobody is to encode ahead what is never used.
        unused = {info for info, uses in self._left.items() if not uses}
        self._begun = {*self._made, *unused}
        self._cursor, self._times = 0, InnerTimes()
        self._encoder.begin([info for info in self._order if info not in self._begun])

    def end(self) -> InnerTimes:
        """The run is over, maybe by an error: drops all but the plaintexts to keep.

        Returns what operations spent in `use`, in this run.
        """
        self._made = {
            info: future
            for info, future in self._made.items()
            if info in self._keep and future.done() and future.exception() is None
        }
        self.held_bytes = 0
        return self._times

    def close(self) -> None:
        """Drops everything."""
        self._made.clear()
        self.held_bytes = 0

    def use(self, operation: int) -> Iterator[tuple[int, Any]]:
        """(term, plaintext) of an operation's constants, in the order that waits least."""
        left = list(self._terms[operation])
        while left:
            yield self._next(left)  # nothing here keeps a plaintext for the caller's next step

    def claim(self) -> PlaintextInfo | None:
        """The next plaintext to encode ahead, which the caller is to `make`; None: not now."""
        with self._lock:
            while self._cursor < len(self._order):
                info = self._order[self._cursor]
                if info in self._begun:
                    self._cursor += 1
                    continue
                fits = info in self._keep or self.held_bytes + info.bytes <= self.ahead_bytes
                if not fits or not self._encoder.is_ready(info):
                    return None
                self._start(info)
                return info
            return None

    def make(self, info: PlaintextInfo) -> None:
        """Encodes a claimed plaintext; an error is also raised where the plaintext is used."""
        self._make(info)

    def _next(self, left: list[Use]) -> tuple[int, Any]:
        """One of those left, taken off the list: at hand, or made here, or waited for."""
        with self._lock:
            use = self._choose(left)
            info = use[1]
            is_ours = info not in self._begun
            future = self._start(info) if is_ours else self._made[info]
        left.remove(use)
        if is_ours:
            plaintext, times = self._make(info)
        else:
            started = time.perf_counter()
            plaintext = future.result()  # who makes it waits for nobody, so this ends
            times = InnerTimes(wait=time.perf_counter() - started)
        with self._lock:
            self._times += times
            self._left[info] -= 1
            if not self._left[info] and info not in self._keep:
                del self._made[info]
                self.held_bytes -= info.bytes
        return use[0], plaintext

    def _choose(self, left: Sequence[Use]) -> Use:
        for use in left:
            if use[1] not in self._begun or self._made[use[1]].done():
                return use
        return left[0]

    def _start(self, info: PlaintextInfo) -> Future[Any]:
        self._begun.add(info)
        if info not in self._keep:
            self.held_bytes += info.bytes
        self._made[info] = Future()
        return self._made[info]

    def _make(self, info: PlaintextInfo) -> tuple[Any, InnerTimes]:
        future = self._made[info]
        started = time.perf_counter()
        try:
            vector = self._encoder.vector(info)
            prepared = time.perf_counter()
            plaintext = self._encoder.encode(info, vector)
        except BaseException as error:
            future.set_exception(error)
            raise
        future.set_result(plaintext)
        return plaintext, InnerTimes(time.perf_counter() - prepared, prepared - started)
