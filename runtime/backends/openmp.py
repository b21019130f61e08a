"""Whether OpenMP may use several threads inside an operation, switched per calling thread.

OpenFHE asks for as many threads in every parallel region as OMP_NUM_THREADS allowed when it was
loaded. With no active level left for it on the calling thread, a region runs on that thread alone.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any


def allow_inner_threads(allowed: bool) -> None:
    """For the operations this thread starts from now on."""
    switch = _switch()
    if switch is not None:
        switch(int(allowed))


@cache
def _switch() -> Callable[[int], Any] | None:
    try:
        # The library OpenFHE uses, if it has been loaded; otherwise there is nothing to switch.
        switch = ctypes.CDLL("libgomp.so.1").omp_set_max_active_levels
    except (OSError, AttributeError):
        return None
    switch.argtypes, switch.restype = [ctypes.c_int], None
    return switch
