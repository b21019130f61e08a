"""The slot graph: operations are typed when emitted, and again by the verifier."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhecompile.ckks.operations import ValueType
from fhecompile.errors import InternalError
from fhecompile.ir.slots import SlotGraph, verify

Graphs = Callable[..., st.SearchStrategy[Any]]


@pytest.fixture
def graph() -> SlotGraph:
    graph = SlotGraph(59)
    x = graph.emit("input", (), "image", tensor=0, part=0, level=0, scale=40.0)
    y = graph.emit("square", (x,), "square")
    z = graph.emit("rescale", (y,), "square")
    graph.emit("output", (z,), "out", tensor=0, part=0)
    return graph


@given(data=st.data())
def test_random_graphs_verify(slot_graphs: Graphs, data: st.DataObject) -> None:
    verify(data.draw(slot_graphs()))


def test_emit_types_the_value(graph: SlotGraph) -> None:
    assert [n.type for n in graph] == [
        ValueType("ciphertext", 0, 40.0),
        ValueType("ciphertext", 0, 80.0),
        ValueType("ciphertext", 1, 21.0),
        ValueType("ciphertext", 1, 21.0),
    ]
    assert [n.id for n in graph] == [0, 1, 2, 3]


def test_emit_refuses_what_does_not_fit(graph: SlotGraph) -> None:
    with pytest.raises(InternalError) as raised:
        graph.emit("add", (0, 2), "sum")
    assert str(raised.value) == "slot graph: sum: add operands at levels 0 and 1"
    assert len(graph.nodes) == 4


def test_emptied_keeps_the_constants(graph: SlotGraph) -> None:
    empty = graph.emptied()
    assert not empty.nodes and empty.prime_bits == 59
    assert empty.maps is graph.maps and empty.vectors is graph.vectors


def test_verify_recomputes_types(graph: SlotGraph) -> None:
    graph.nodes[1] = replace(graph.nodes[1], type=ValueType("ciphertext", 0, 81.0))
    with pytest.raises(InternalError) as raised:
        verify(graph)
    lines = str(raised.value).splitlines()
    assert lines[0] == (
        "slot graph: %1 = square of layer square is typed "
        "ValueType(kind='ciphertext', level=0, scale=81.0) but computes "
        "ValueType(kind='ciphertext', level=0, scale=80.0)"
    )
    assert len(lines) == 5
    assert [line.endswith("<--") for line in lines[1:]] == [False, True, False, False]


def test_verify_wants_operands_first(graph: SlotGraph) -> None:
    graph.nodes = {k: graph.nodes[k] for k in (0, 2, 1, 3)}
    with pytest.raises(InternalError) as raised:
        verify(graph)
    text = str(raised.value).splitlines()[0]
    assert text == "slot graph: %2 = rescale of layer square uses %1 before it is made"


def test_verify_reads_the_operation_table(graph: SlotGraph) -> None:
    graph.nodes[2] = replace(graph.nodes[2], attributes={"offset": 1})
    with pytest.raises(InternalError) as raised:
        verify(graph)
    text = str(raised.value).splitlines()[0]
    assert text == "slot graph: %2 = rescale of layer square has the attributes ['offset']"
