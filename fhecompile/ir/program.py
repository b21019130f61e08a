"""What a pass sees: the graphs, the options, and facts stored by type; and what a pass is.

A pass is a frozen dataclass whose fields are its options (`balance_quadratics{sign=false}` on the
command line). `needs` and `gives` are fact types; the manager checks a whole list of passes before
it runs the first one.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, TypeVar

from fhecompile.errors import FheCompileError, InternalError
from fhecompile.ir import slots, tensor, tensor_rules
from fhecompile.ir.slots import SlotGraph
from fhecompile.options import CompileOptions

T = TypeVar("T")


class Facts:
    """Immutable store of at most one fact per type; asking for a missing one is a bug."""

    def __init__(self, facts: Iterable[Any] = ()) -> None:
        self._facts = {type(fact): fact for fact in facts}

    def __getitem__(self, kind: type[T]) -> T:
        try:
            fact: T = self._facts[kind]
        except KeyError:
            raise InternalError(f"no pass has provided {kind.__name__}") from None
        return fact

    def __contains__(self, kind: type) -> bool:
        return kind in self._facts

    def kinds(self) -> set[type]:
        """The types there is a fact of."""
        return set(self._facts)

    def having(self, *facts: Any) -> Facts:
        """A store with these facts added or replaced."""
        return Facts([*self._facts.values(), *facts])


@dataclass(frozen=True, eq=False)
class Program:
    """State of a compilation between two passes."""

    graph: tensor.TensorGraph
    options: CompileOptions
    facts: Facts = field(default_factory=Facts)
    slots: SlotGraph | None = None

    def slot_graph(self) -> SlotGraph:
        """The slot graph, which exists after lowering."""
        if self.slots is None:
            raise InternalError("the network has not been lowered to slots yet")
        return self.slots

    def having(self, *facts: Any) -> Program:
        """The program with facts added."""
        return replace(self, facts=self.facts.having(*facts))


@dataclass(frozen=True, eq=False)
class PassResult:
    """Outcome of a pass: the program, whether it changed, and remarks for `--explain`."""

    program: Program
    modified: bool
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pass(ABC):
    """Base class; see the module docstring."""

    needs: ClassVar[tuple[type, ...]] = ()
    gives: ClassVar[tuple[type, ...]] = ()

    @property
    def name(self) -> str:
        """Name in pipelines: the module's name, verb_object."""
        return type(self).__module__.rsplit(".", 1)[-1]

    def requires(self, program: Program) -> None:  # noqa: B027
        """Raises when the program is not what the pass works on."""

    @abstractmethod
    def run(self, program: Program) -> PassResult:
        """Does the work; never changes its argument."""

    def ensures(self, before: Program, after: Program) -> None:  # noqa: B027
        """Raises when the result is not what the pass promises."""


@dataclass(frozen=True)
class PassRecord:
    """What the manager says of one pass."""

    name: str
    seconds: float
    modified: bool
    remarks: tuple[str, ...]


class PassManager:
    """Runs a list of passes, verifying both graphs after each."""

    def __init__(self, passes: Sequence[Pass]) -> None:
        self.passes = list(passes)
        self.records: list[PassRecord] = []

    def check(self, available: Iterable[type] = ()) -> None:
        """Raises when a pass needs a fact that nothing before it gives."""
        known = set(available)
        for p in self.passes:
            missing = [kind.__name__ for kind in p.needs if kind not in known]
            if missing:
                raise FheCompileError(
                    "pipeline-order",
                    f"the pass {p.name} needs {', '.join(missing)}, which no earlier pass gives",
                    hint="reorder the passes, or leave --passes out for the default pipeline",
                )
            known.update(p.gives)

    def run(self, program: Program) -> Program:
        """Runs every pass in order."""
        self.check(program.facts.kinds())
        for p in self.passes:
            started = time.perf_counter()
            before = program
            try:
                p.requires(program)
                result = p.run(program)
                program = result.program
                tensor_rules.verify(program.graph)
                if program.slots is not None and program.slots is not before.slots:
                    slots.verify(program.slots)
                for kind in p.gives:
                    program.facts[kind]
                p.ensures(before, program)
            except InternalError as error:
                done = ", ".join(r.name for r in self.records) or "none"
                raise InternalError(f"pass {p.name}: {error} (passes done: {done})") from error
            self.records.append(
                PassRecord(p.name, time.perf_counter() - started, result.modified, result.remarks)
            )
        return program
