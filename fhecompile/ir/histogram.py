"""How often the operand of a function took which values on the calibration data."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

BINS = 64


@dataclass(frozen=True, eq=False)
class Histogram:
    """Counts of values in bins of equal width from `low` to `high`.

    Args:
        low, high: of all values, low <= high.
        counts: of the bins, the lowest first.
        nearest: the least magnitude of a value that is not zero; infinite when there is none.
    """

    low: float
    high: float
    counts: NDArray[np.int64]
    nearest: float = math.inf

    @classmethod
    def empty(cls, low: float, high: float) -> Histogram:
        """Without values, for such as lie between low and high."""
        return cls(low, high, np.zeros(BINS, np.int64))

    @property
    def total(self) -> int:
        """Number of values."""
        return int(self.counts.sum())

    @property
    def edges(self) -> FloatArray:
        """Where bins begin and the last one ends."""
        return np.asarray(np.linspace(self.low, self.high, len(self.counts) + 1), np.float64)

    def having(self, values: FloatArray) -> Histogram:
        """With more values, which lie between low and high but for rounding."""
        width = (self.high - self.low) / len(self.counts) or 1.0
        bins = np.clip((values.ravel() - self.low) // width, 0, len(self.counts) - 1)
        counts = self.counts + np.bincount(bins.astype(np.int64), minlength=len(self.counts))
        sizes = np.abs(values[values != 0.0])
        nearest = min(self.nearest, float(sizes.min(initial=math.inf)))
        return Histogram(self.low, self.high, counts, nearest)

    def density(self, x: FloatArray) -> FloatArray:
        """How often values are near x, relative to values evenly spread; 0 outside of them."""
        edges = self.edges
        share = self.counts / (self.counts.mean() or 1.0)
        middle = (edges[1:] + edges[:-1]) / 2
        inside = (x >= self.low) & (x <= self.high)
        return np.where(inside, np.interp(x, middle, share), 0.0)

    def central(self, share: float) -> tuple[float, float]:
        """A range with that share of the values, with as few below as above, up to whole bins."""
        most = (1.0 - share) / 2 * self.total
        below = int(np.searchsorted(np.cumsum(self.counts), most, side="right"))
        above = int(np.searchsorted(np.cumsum(self.counts[::-1]), most, side="right"))
        edges = self.edges
        return float(edges[below]), float(edges[len(edges) - 1 - above])

    def outside(self, low: float, high: float) -> int:
        """At most how many values are not between low and high."""
        if low <= self.low and high >= self.high:
            return 0
        edges = self.edges
        inside = (edges[:-1] >= low) & (edges[1:] <= high)
        return int(self.counts[~inside].sum())
