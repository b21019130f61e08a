"""What a run leaves behind besides its outputs: when each operation ran, and where time went."""

from __future__ import annotations

from dataclasses import dataclass, field

ENCODE = "encode"  # encoding done ahead, traced like an operation though no plan lists it
KEYS = "keys"  # waiting for the keys of the next stage, likewise
CHECKPOINT = "checkpoint"  # writing one, likewise

# What each operation counts as in `Execution.shares`; those not named are "other".
KINDS = {
    ENCODE: "encode",
    "dot_plain": "multiply",
    "mul_plain": "multiply",
    "add_plain": "multiply",
    "rotate": "rotate",
    "conjugate": "rotate",
    "hoist": "rotate",
    "rotate_hoisted": "rotate",
    "rotate_sum": "rotate",
    "rotate_extended": "rotate",
    "rotate_hoisted_extended": "rotate",
    "add_extended": "rotate",
    "key_switch_down": "rotate",
    "square": "square",
    "mul": "square",
}


@dataclass(frozen=True)
class TraceEntry:
    """When and where one operation ran (seconds since the start of the run).

    `op` is "encode" for a constant encoded ahead and "keys" for a change of the keys at hand; they
    are for every image, so `image` is None.
    """

    op: str
    layer: int
    level: int
    start: float
    end: float
    thread: int
    image: int | None = 0


@dataclass(frozen=True)
class InnerTimes:
    """Thread-seconds inside operations that are not their own work: encoding constants, and waiting
    for one that another thread encodes or for a map to be expanded."""

    encode: float = 0.0
    wait: float = 0.0

    def __add__(self, other: InnerTimes) -> InnerTimes:
        return InnerTimes(self.encode + other.encode, self.wait + other.wait)


@dataclass
class Execution:
    """How one run went, of one image or of several in flight together."""

    threads: int = 1
    images: int = 1
    trace: list[TraceEntry] = field(default_factory=list)
    seconds: float = 0.0
    inner: InnerTimes = InnerTimes()
    started: float = 0.0  # on the clock of time.perf_counter

    def seconds_by_operation(self) -> dict[str, float]:
        """Thread-seconds spent in each kind of operation."""
        total: dict[str, float] = {}
        for entry in self.trace:
            total[entry.op] = total.get(entry.op, 0.0) + entry.end - entry.start
        return total

    def shares(self) -> dict[str, float]:
        """Parts of the thread-time, adding up to 1.

        Encoding counts as "encode" wherever it is done; "idle" is what is left when all work is
        taken off: waiting, and Python between the operations.
        """
        seconds = dict.fromkeys(("encode", "multiply", "rotate", "square", "other"), 0.0)
        for op, spent in self.seconds_by_operation().items():
            seconds[KINDS.get(op, "other")] += spent
        seconds["encode"] += self.inner.encode
        seconds["multiply"] -= self.inner.encode + self.inner.wait
        whole = max(self.threads * self.seconds, 1e-9)
        shares = {kind: spent / whole for kind, spent in seconds.items()}
        return {**shares, "idle": 1.0 - sum(shares.values())}
