"""Expanded linear maps of a plan while it runs: made when needed, one layer ahead, and freed.

Expanding a linear map into slot vectors takes numpy a second for the largest layers, so one map
ahead is expanded on a thread of its own while the current one is in use. A run says how many
diagonals of each map it will take; a map is freed when the last one is taken.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from fhecompile.plan import Plan


class ConstantStore:
    """Expanded maps of a plan; between `begin` and `end` of a run."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._all = Counter(
            number for info in plan.program.operations for number in info.attributes.get("maps", [])
        )
        self._lock = threading.Lock()
        self._maps: dict[int, Future[NDArray[np.complex128]]] = {}
        self._left: dict[int, int] = {}
        self._next: dict[int, int] = {}
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="expand")
        self.begin()

    def begin(self, uses: Mapping[int, int] | None = None) -> None:
        """A run starts; `uses` is how many diagonals it will take of each map, in its order.

        By default each one that an operation of the plan names.
        """
        uses = self._all if uses is None else uses
        with self._lock:
            self._maps.clear()
            self._left = dict(uses)
            self._next = dict(pairwise(uses))

    def end(self) -> None:
        """The run is over: frees what an error may have left."""
        with self._lock:
            self._maps.clear()

    def is_expanded(self, number: int) -> bool:
        """Whether `diagonal` would return at once; if not, has the map expanded."""
        with self._lock:
            return self._request(number).done()

    def diagonal(self, number: int, diagonal: int) -> NDArray[np.complex128]:
        """The slot vector of one diagonal of a map, before any rotation."""
        with self._lock:
            future = self._request(number)
            following = self._next.get(number)
            if following is not None and self._left[following] > 0:
                self._request(following)
            self._left[number] = self._left.get(number, 0) - 1
            if self._left[number] <= 0:
                del self._maps[number]
        vector: NDArray[np.complex128] = future.result()[diagonal]
        return vector

    def close(self) -> None:
        """Stops the thread and drops everything."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._maps.clear()

    def _request(self, number: int) -> Future[NDArray[np.complex128]]:
        if number not in self._maps:
            self._maps[number] = self._pool.submit(self._expand, number)
        return self._maps[number]

    def _expand(self, number: int) -> NDArray[np.complex128]:
        diagonal_map, wanted = self.plan.maps[number]
        return diagonal_map.expand(wanted)
