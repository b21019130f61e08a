"""OpenMP inside an operation is switched for the calling thread only."""

from __future__ import annotations

import ctypes
import threading

import pytest

from runtime.backends.openmp import allow_inner_threads


def test_switch_is_per_thread() -> None:
    pytest.importorskip("openfhe", reason="OpenFHE is not installed")
    levels = ctypes.CDLL("libgomp.so.1").omp_get_max_active_levels
    before = levels()
    found: list[int] = []

    def work() -> None:
        for allowed in (False, True, False):
            allow_inner_threads(allowed)
            found.append(levels())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [0, 1, 0]
    assert levels() == before
