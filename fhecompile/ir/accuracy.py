r"""What a network keeps of its accuracy when polynomials stand for its activations.

With y_i the outputs of the network for sample i, y'_i those with the polynomials, both in float64,
and l_i its label,

    accuracy    share of samples with argmax y'_i = l_i
    agreement   share of samples with argmax y'_i = argmax y_i
    change      max |y' - y| / max |y|, over all samples and elements

A sample whose y'_i is not finite has no class: it counts as wrong. CKKS's noise is not in it; the
bits of precision bound that. Accuracy on the samples that polynomials were fitted for says too
much of others, so that it is counted how many there are of those.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fhecompile.ir.evaluate import evaluate
from fhecompile.ir.tensor import Output, Shape, TensorGraph

FloatArray = NDArray[np.float64]
BATCH = 16
NO_CLASS = -1


@dataclass(frozen=True)
class Accuracy:
    """The figures of the module docstring.

    `accuracy` is None without labels, `agreement` where outputs are no classes, `change` infinite
    where outputs overflow; `overflows` counts the samples that do.
    """

    accuracy: float | None
    agreement: float | None
    change: float
    overflows: int

    @property
    def loss(self) -> float:
        """What is to be small: the share of wrong classes, else of other ones, else the change."""
        for share in (self.accuracy, self.agreement):
            if share is not None:
                return 1.0 - share
        return self.change


@dataclass(frozen=True)
class MeasuredSamples:
    """What accuracy is measured on.

    `count` samples, of which `calibrated` are calibration samples, with a class each or not;
    `exact` is what the model itself reaches.
    """

    count: int
    calibrated: int
    is_labelled: bool
    exact: Accuracy

    @property
    def standard_error(self) -> float | None:
        """Of the model's accuracy a, sqrt(a (1 - a) / count): differences below it mean little."""
        share = self.exact.accuracy
        return None if share is None else math.sqrt(share * (1.0 - share) / self.count)


class AccuracyTest:
    """Measures the accuracy of variants of one network on one set of samples.

    Args:
        graph: the network, functions exact.
        inputs: the samples by input name, (samples / batch, *shape) each.
        samples: how many there are; those beyond repeat others to fill a batch.
        batch: samples that are one of `inputs`.
        labels: their classes, (samples,); None: there are none.
    """

    def __init__(
        self,
        graph: TensorGraph,
        inputs: Mapping[str, FloatArray],
        samples: int,
        batch: int = 1,
        labels: NDArray[np.int64] | None = None,
    ) -> None:
        self.samples, self.labels = samples, labels
        self._inputs, self._classes = inputs, count_classes(graph, batch)
        self._exact = self._outputs(graph)
        self._range = float(np.abs(self._exact).max(initial=0.0)) or 1.0
        self.exact = self._compare(self._exact)

    def measure(self, graph: TensorGraph) -> Accuracy:
        """The accuracy of a variant of the graph, e.g. with polynomials for its functions."""
        return self._compare(self._outputs(graph))

    def _outputs(self, graph: TensorGraph) -> FloatArray:
        """All outputs, (samples, classes), or (batches, elements) where they are no classes."""
        rows = []
        count = len(next(iter(self._inputs.values())))
        for start in range(0, count, BATCH):
            part = {name: x[start : start + BATCH] for name, x in self._inputs.items()}
            with np.errstate(all="ignore"):  # overflows are counted
                found = evaluate(graph, part).values()
            rows += [np.concatenate([y.reshape(len(y), -1) for y in found], axis=1)]
        outputs: FloatArray = np.concatenate(rows)
        return outputs.reshape(-1, self._classes)[: self.samples] if self._classes else outputs

    def _compare(self, outputs: FloatArray) -> Accuracy:
        finite: NDArray[np.bool_] = np.asarray(np.isfinite(outputs).all(axis=1))
        with np.errstate(all="ignore"):
            change = float(np.abs(outputs - self._exact).max(initial=0.0)) / self._range
        accuracy = agreement = None
        if self._classes:
            found = np.where(finite, outputs.argmax(axis=1), NO_CLASS)
            agreement = float(np.mean(found == self._exact.argmax(axis=1)))
            if self.labels is not None:
                accuracy = float(np.mean(found == self.labels))
        change = change if math.isfinite(change) else math.inf
        return Accuracy(accuracy, agreement, change, len(finite) - int(finite.sum()))


def count_repeated(samples: Mapping[str, FloatArray], others: Mapping[str, FloatArray]) -> int:
    """How many of the samples are also among the others, all inputs equal."""

    def rows(arrays: Mapping[str, FloatArray]) -> list[bytes]:
        flat = [np.ascontiguousarray(x.reshape(len(x), -1)) for _, x in sorted(arrays.items())]
        return [b"".join(x[k].tobytes() for x in flat) for k in range(len(flat[0]))]

    known = set(rows(others))
    return sum(row in known for row in rows(samples))


def count_classes(graph: TensorGraph, batch: int = 1) -> int:
    """How many classes the outputs of a sample are of; 0 when they are none.

    Classes are one output (..., classes) whose other axes have length 1.
    """
    outputs = graph.outputs()
    if len(outputs) != 1:
        return 0
    shape = own_shape(outputs[0], batch)
    return shape[-1] if shape and shape[-1] > 1 and math.prod(shape[:-1]) == 1 else 0


def own_shape(output: Output, batch: int = 1) -> Shape:
    """The shape of one sample's output."""
    return output.shape[1:] if batch > 1 else output.shape
