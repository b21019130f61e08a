"""Facts by type, and the pass manager: what is missing, and what ran when a pass fails."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import pytest

from fhecompile.ckks.operations import ValueType
from fhecompile.errors import FheCompileError, InternalError
from fhecompile.ir.program import Facts, Pass, PassManager, PassResult, Program
from fhecompile.ir.slots import SlotGraph, SlotNode
from fhecompile.ir.tensor import Input, Output, TensorGraph
from fhecompile.options import CompileOptions


@dataclass(frozen=True)
class Colour:
    """A fact."""

    name: str


@dataclass(frozen=True)
class Weight:
    """Another fact."""

    grams: int


@dataclass(frozen=True)
class Step(Pass):
    """A pass that does what a test says and notes that it ran."""

    label: str
    action: Callable[[Program], Program] = field(default=lambda program: program)
    ran: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.label

    def run(self, program: Program) -> PassResult:
        self.ran.append(self.label)
        return PassResult(self.action(program), True, (f"{self.label} ran",))


@dataclass(frozen=True)
class Paint(Step):
    """Gives a colour."""

    gives: ClassVar[tuple[type, ...]] = (Colour,)


@dataclass(frozen=True)
class Weigh(Step):
    """Needs a colour, gives a weight."""

    needs: ClassVar[tuple[type, ...]] = (Colour,)
    gives: ClassVar[tuple[type, ...]] = (Weight,)


def paint(program: Program) -> Program:
    return program.having(Colour("red"))


def weigh(program: Program) -> Program:
    return program.having(Weight(len(program.facts[Colour].name)))


@pytest.fixture
def program() -> Program:
    graph = TensorGraph("g")
    graph.add(Input(name="x", shape=(3,)))
    graph.add(Output(name="o", inputs=("x",), shape=(3,), label="y"))
    return Program(graph, CompileOptions())


# ---------------------------------------------------------------------------- facts


def test_facts_are_found_by_type() -> None:
    facts = Facts([Colour("red")])
    assert facts[Colour] == Colour("red")
    assert Colour in facts and Weight not in facts


def test_facts_do_not_change() -> None:
    facts = Facts([Colour("red")])
    more = facts.having(Colour("blue"), Weight(3))
    assert (more[Colour], more[Weight]) == (Colour("blue"), Weight(3))
    assert facts[Colour] == Colour("red") and Weight not in facts


def test_a_missing_fact_is_named() -> None:
    with pytest.raises(InternalError, match=r"^no pass has provided Weight$"):
        Facts()[Weight]


def test_slot_graph_exists_after_lowering(program: Program) -> None:
    with pytest.raises(InternalError, match=r"^the network has not been lowered to slots yet$"):
        program.slot_graph()
    slots = SlotGraph(59)
    assert replace(program, slots=slots).slot_graph() is slots


# ---------------------------------------------------------------------------- the manager


def test_passes_run_in_order(program: Program) -> None:
    ran: list[str] = []
    manager = PassManager([Paint("paint", paint, ran), Weigh("weigh", weigh, ran)])
    result = manager.run(program)
    assert ran == ["paint", "weigh"]
    assert result.facts[Weight] == Weight(3)
    assert Colour not in program.facts
    assert [(r.name, r.modified, r.remarks) for r in manager.records] == [
        ("paint", True, ("paint ran",)),
        ("weigh", True, ("weigh ran",)),
    ]
    assert all(r.seconds >= 0 for r in manager.records)


def test_name_is_the_module_of_the_class() -> None:
    @dataclass(frozen=True)
    class Plain(Pass):
        def run(self, program: Program) -> PassResult:
            return PassResult(program, False)

    assert Plain().name == __name__.rsplit(".", 1)[-1]


def test_missing_facts_are_found_before_anything_runs(program: Program) -> None:
    ran: list[str] = []
    manager = PassManager([Step("first", ran=ran), Weigh("weigh", weigh, ran)])
    with pytest.raises(FheCompileError) as raised:
        manager.run(program)
    assert str(raised.value) == (
        "the pass weigh needs Colour, which no earlier pass gives [pipeline-order]\n"
        "  hint: reorder the passes, or leave --passes out for the default pipeline"
    )
    assert ran == [] and manager.records == []


def test_order_of_the_passes_counts(program: Program) -> None:
    manager = PassManager([Weigh("weigh", weigh), Paint("paint", paint)])
    with pytest.raises(FheCompileError):
        manager.check()
    manager.check([Colour])


def test_facts_of_the_program_count(program: Program) -> None:
    result = PassManager([Weigh("weigh", weigh)]).run(program.having(Colour("blue")))
    assert result.facts[Weight] == Weight(4)


def fail(_: Program) -> Program:
    raise InternalError("it broke")


def refuse(_: Program) -> Program:
    raise FheCompileError("bad", "the model is bad", node="conv1")


def run_failing(program: Program, last: Pass) -> str:
    manager = PassManager([Step("one"), Step("two"), last])
    with pytest.raises(InternalError) as raised:
        manager.run(program)
    assert [r.name for r in manager.records] == ["one", "two"]
    return str(raised.value)


def test_a_failing_pass_names_those_that_ran(program: Program) -> None:
    text = run_failing(program, Step("three", fail))
    assert text == "pass three: it broke (passes done: one, two)"
    with pytest.raises(InternalError, match=r"^pass one: it broke \(passes done: none\)$"):
        PassManager([Step("one", fail)]).run(program)


def test_errors_of_the_user_pass_through(program: Program) -> None:
    with pytest.raises(FheCompileError) as raised:
        PassManager([Step("one", refuse)]).run(program)
    assert raised.value.node == "conv1"


def test_a_promised_fact_must_be_given(program: Program) -> None:
    text = run_failing(program, Paint("paint"))
    assert text == "pass paint: no pass has provided Colour (passes done: one, two)"


def test_the_tensor_graph_is_verified_after_each_pass(program: Program) -> None:
    def break_graph(before: Program) -> Program:
        output = Output(name="o", inputs=("gone",), shape=(3,), label="y")
        return replace(before, graph=TensorGraph("g", {"o": output}))

    assert run_failing(program, Step("three", break_graph)) == (
        "pass three: tensor graph g: output o uses gone before it is made (passes done: one, two)"
    )


def test_the_slot_graph_is_verified_when_it_changes(program: Program) -> None:
    def break_slots(before: Program) -> Program:
        slots = SlotGraph(59)
        node = SlotNode(0, "negate", (1,), {}, ValueType("ciphertext", 0, 40.0), "conv")
        slots.nodes[0] = node
        return replace(before, slots=slots)

    text = run_failing(program, Step("three", break_slots))
    assert text.startswith(
        "pass three: slot graph: %0 = negate of layer conv uses %1 before it is made\n"
    )


@dataclass(frozen=True)
class Picky(Step):
    """A pass with a contract of its own."""

    def requires(self, program: Program) -> None:
        if Colour not in program.facts:
            raise InternalError("wants a colour")

    def ensures(self, before: Program, after: Program) -> None:
        if after is before:
            raise InternalError("should have changed something")


def test_contracts_are_checked(program: Program) -> None:
    ran: list[Any] = []
    text = run_failing(program, Picky("three", ran=ran))
    assert text == "pass three: wants a colour (passes done: one, two)"
    assert ran == []
    text = run_failing(program.having(Colour("red")), Picky("three", ran=ran))
    assert text == "pass three: should have changed something (passes done: one, two)"
