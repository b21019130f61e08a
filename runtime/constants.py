"""Constants of a plan while it runs: diagonals expanded one layer at a time, and freed.

Expanding a linear map into slot vectors takes numpy a second for the largest layers, so one layer
ahead is expanded on a thread of its own while the current one runs. `dot_plain` operations use the
maps in the plan's order; a map is freed when its last operation is done.
"""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from fhecompile.plan import Plan


class ConstantStore:
    """Expanded maps and packed vectors of a plan, made when needed."""

    def __init__(self, plan: Plan, keep: bool = False) -> None:
        self.plan = plan
        self.keep = keep
        self._lock = threading.Lock()
        self._maps: dict[int, Future[NDArray[np.complex128]]] = {}
        self._uses: Counter[int] = Counter()
        self._order: list[int] = []
        for info in plan.program.operations:
            for number in dict.fromkeys(info.attributes.get("maps", [])):
                self._uses[number] += 1
                if self._uses[number] == 1:
                    self._order.append(number)
        self._left = dict(self._uses)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="expand")

    def diagonal(self, number: int, diagonal: int) -> NDArray[np.complex128]:
        """The slot vector of one diagonal of a map, before any rotation."""
        with self._lock:
            future = self._request(number)
            position = self._order.index(number)
            if position + 1 < len(self._order):
                self._request(self._order[position + 1])
        vector: NDArray[np.complex128] = future.result()[diagonal]
        return vector

    def done(self, numbers: list[int]) -> None:
        """Says that one operation that uses these maps has finished."""
        if self.keep:
            return
        with self._lock:
            for number in dict.fromkeys(numbers):
                self._left[number] -= 1
                if self._left[number] == 0:
                    self._maps.pop(number, None)
                    self._left[number] = self._uses[number]

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
