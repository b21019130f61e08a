"""What a backend is: one method per operation of the table.

The executor calls `backend.execute(node, operands)`, which dispatches to the method named like the
operation. Values are opaque to the executor. All methods may run on several threads at once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from fhecompile.ckks.operations import OPERATIONS, ValueType
from fhecompile.errors import InternalError
from fhecompile.plan import Plan
from runtime.constants import ConstantStore
from runtime.trace import InnerTimes


@dataclass(frozen=True)
class OperationNode:
    """One operation of a plan with its type and its operands' types."""

    number: int
    op: str
    inputs: tuple[int, ...]
    attributes: dict[str, Any]
    layer: int
    type: ValueType
    operand_types: tuple[ValueType, ...]


def operation_nodes(plan: Plan) -> list[OperationNode]:
    """All operations of a plan, typed."""
    types = plan.types
    return [
        OperationNode(
            number,
            info.op,
            info.inputs,
            info.attributes,
            info.layer,
            types[number],
            tuple(types[i] for i in info.inputs),
        )
        for number, info in enumerate(plan.program.operations)
    ]


@dataclass(frozen=True)
class AheadTask:
    """Work on an operation's constants that can be done before its operands are there."""

    node: OperationNode
    run: Callable[[], None]


class Backend(ABC):
    """Base class; a backend implements one method per operation but `input` and `output`.

    The executor calls `begin` before a run and `end` after it, whether or not it succeeded.
    """

    name: ClassVar[str]

    def __init__(self, plan: Plan, constants: ConstantStore) -> None:
        self.plan = plan
        self.constants = constants
        self._methods: dict[str, Callable[[OperationNode, Sequence[Any]], Any]] = {}
        for op in OPERATIONS:
            if op not in ("input", "output"):
                self._methods[op] = getattr(self, op)

    def begin(self, images: int, done: Mapping[int, int] | None = None) -> None:
        """A run of so many images starts: every operation will be executed once for each.

        `done` says for how many it is not, by the operation's number, as they are past it already.
        """
        self.constants.begin()

    def end(self) -> InnerTimes:
        """The run is over, maybe by an error; how long operations encoded and waited."""
        self.constants.end()
        return InnerTimes()

    def enter_stage(self, stage: int) -> None:  # noqa: B027  (only OpenFHE has keys)
        """Prepares for the operations of a stage of keys; none of the run's is executed now."""

    def spread(self, wide: bool) -> None:  # noqa: B027  (numpy backends do not care)
        """Whether what this thread executes next may use other cores as well."""

    def claim_ahead(self) -> AheadTask | None:
        """What a thread without an operation to execute may do now; each task is given once."""
        return None

    def execute(self, node: OperationNode, operands: Sequence[Any]) -> Any:
        """The value of one operation."""
        method = self._methods.get(node.op)
        if method is None:
            raise InternalError(f"backend {self.name} has no operation {node.op}")
        return method(node, operands)

    def output(self, node: OperationNode, value: Any) -> Any:
        """What leaves the program at an `output` operation."""
        return value

    # One signature for all: (node, operands) -> value.
    @abstractmethod
    def rotate(self, node: OperationNode, operands: Sequence[Any]) -> Any: ...
    @abstractmethod
    def conjugate(self, node: OperationNode, operands: Sequence[Any]) -> Any: ...
    @abstractmethod
    def hoist(self, node: OperationNode, operands: Sequence[Any]) -> Any: ...
    @abstractmethod
    def rotate_hoisted(self, node: OperationNode, operands: Sequence[Any]) -> Any: ...
    @abstractmethod
    def rotate_sum(self, node: OperationNode, operands: Sequence[Any]) -> Any: ...
    @abstractmethod
    def rotate_extended(self, node: OperationNode, operands: Sequence[Any]) -> Any: ...
    @abstractmethod
    def rotate_hoisted_extended(self, node: OperationNode, operands: Sequence[Any]) -> Any: ...
    @abstractmethod
    def add_extended(self, node: OperationNode, operands: Sequence[Any]) -> Any: ...
    @abstractmethod
    def key_switch_down(self, node: OperationNode, operands: Sequence[Any]) -> Any: ...
    @abstractmethod
    def dot_plain(self, node: OperationNode, operands: Sequence[Any]) -> Any: ...
    @abstractmethod
    def mul_plain(self, node: OperationNode, operands: Sequence[Any]) -> Any: ...
    @abstractmethod
    def add_plain(self, node: OperationNode, operands: Sequence[Any]) -> Any: ...
    @abstractmethod
    def add(self, node: OperationNode, operands: Sequence[Any]) -> Any: ...
    @abstractmethod
    def sub(self, node: OperationNode, operands: Sequence[Any]) -> Any: ...
    @abstractmethod
    def negate(self, node: OperationNode, operands: Sequence[Any]) -> Any: ...
    @abstractmethod
    def mul(self, node: OperationNode, operands: Sequence[Any]) -> Any: ...
    @abstractmethod
    def square(self, node: OperationNode, operands: Sequence[Any]) -> Any: ...
    @abstractmethod
    def mul_i(self, node: OperationNode, operands: Sequence[Any]) -> Any: ...
    @abstractmethod
    def keep_even(self, node: OperationNode, operands: Sequence[Any]) -> Any: ...
    @abstractmethod
    def rescale(self, node: OperationNode, operands: Sequence[Any]) -> Any: ...
    @abstractmethod
    def drop_level(self, node: OperationNode, operands: Sequence[Any]) -> Any: ...
    @abstractmethod
    def relabel(self, node: OperationNode, operands: Sequence[Any]) -> Any: ...
    @abstractmethod
    def refresh(self, node: OperationNode, operands: Sequence[Any]) -> Any: ...
    @abstractmethod
    def scale_up(self, node: OperationNode, operands: Sequence[Any]) -> Any: ...
