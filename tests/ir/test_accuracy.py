"""Accuracy, agreement and change are counted as defined, in batches too."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fhecompile.ir.accuracy import Accuracy, AccuracyTest, count_classes, count_repeated
from fhecompile.ir.tensor import TensorGraph
from passes.batch_samples import stack_samples
from tests.support import FloatArray, Network

CLASSES = 3


def classifier(power: int = 1, shift: float = 0.0) -> TensorGraph:
    """Outputs x^power + (shift, 0, 0)."""
    net = Network(x=(1, CLASSES))
    y = "x"
    for _ in range(power - 1):
        y = net.op("Mul", y, "x")
    y = net.op("Add", y, np.array([shift, 0.0, 0.0]), name="y")
    return net.graph(y)


def drawn(seed: int, samples: int) -> tuple[FloatArray, NDArray[np.int64]]:
    random = np.random.default_rng(seed)
    return random.normal(size=(samples, 1, CLASSES)), random.integers(0, CLASSES, samples)


@given(st.integers(0, 1000), st.integers(1, 40), st.floats(-2, 2))
def test_shares(seed: int, samples: int, shift: float) -> None:
    x, labels = drawn(seed, samples)
    changed = x[:, 0] + np.array([shift, 0.0, 0.0])
    test = AccuracyTest(classifier(), {"x": x}, samples, labels=labels)
    found = test.measure(classifier(shift=shift))
    assert test.exact.accuracy == np.mean(x[:, 0].argmax(axis=1) == labels)
    assert (test.exact.agreement, test.exact.change, test.exact.overflows) == (1.0, 0.0, 0)
    assert found.accuracy == np.mean(changed.argmax(axis=1) == labels)
    assert found.agreement == np.mean(changed.argmax(axis=1) == x[:, 0].argmax(axis=1))
    assert found.change == pytest.approx(abs(shift) / np.abs(x).max(), abs=1e-6)


@given(st.integers(0, 1000), st.integers(1, 40), st.integers(2, 5))
def test_a_batch_counts_every_sample_once(seed: int, samples: int, batch: int) -> None:
    x, labels = drawn(seed, samples)
    grouped = np.resize(x, (-(-samples // batch), batch, 1, CLASSES))
    shifted = classifier(shift=0.7)
    one = AccuracyTest(classifier(), {"x": x}, samples, labels=labels)
    many = AccuracyTest(stack_samples(classifier(), batch), {"x": grouped}, samples, batch, labels)
    assert many.exact == one.exact
    assert many.measure(stack_samples(shifted, batch)) == one.measure(shifted)


def test_a_sample_that_overflows_has_no_class() -> None:
    x = np.array([[[1.0, 0.0, 0.0]], [[1e200, 0.0, 0.0]]])
    test = AccuracyTest(classifier(), {"x": x}, 2, labels=np.zeros(2, np.int64))
    assert test.measure(classifier(power=2)) == Accuracy(0.5, 0.5, math.inf, 1)


def test_without_labels_or_classes() -> None:
    net = Network(x=(1, CLASSES))
    square = net.graph(net.op("Mul", "x", "x", name="a"), net.op("Neg", "x", name="b"))
    x, _ = drawn(0, 20)
    test = AccuracyTest(square, {"x": x}, 20)
    assert test.exact == Accuracy(None, None, 0.0, 0)
    assert test.exact.loss == 0.0
    found = AccuracyTest(classifier(), {"x": x}, 20).measure(classifier(shift=1.0))
    assert found.accuracy is None and found.agreement is not None
    assert found.loss == 1.0 - found.agreement > 0


@pytest.mark.parametrize(
    ("shape", "classes"), [((4,), 4), ((1, 4), 4), ((1, 1, 2), 2), ((2, 4), 0), ((1, 1), 0)]
)
def test_what_classes_are(shape: tuple[int, ...], classes: int) -> None:
    net = Network(x=shape)
    graph = net.graph(net.op("Mul", "x", "x", name="y"))
    assert count_classes(graph) == classes
    assert count_classes(stack_samples(graph, 3), 3) == classes


def test_two_outputs_are_no_classes() -> None:
    net = Network(x=(1, 4))
    assert count_classes(net.graph(net.op("Neg", "x"), net.op("Mul", "x", "x"))) == 0


def test_repeated_samples() -> None:
    a, b = np.arange(6.0).reshape(3, 2), np.arange(3.0).reshape(3, 1)
    known = {"a": a, "b": b}
    assert count_repeated(known, known) == 3
    assert count_repeated({"a": a[1:], "b": b[1:]}, known) == 2
    assert count_repeated({"a": a[1:], "b": b[:2]}, known) == 0
