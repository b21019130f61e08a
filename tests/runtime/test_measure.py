"""How operations are timed, on tasks whose length is known."""

from __future__ import annotations

import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from fhecompile.ckks.parameters import Parameters
from runtime.measure import calibration_parameters, time_together


def test_all_threads_work_at_the_same_time() -> None:
    """Each task waits for the others, so that one alone would never end."""
    meeting = threading.Barrier(3)
    with ThreadPoolExecutor(3) as pool:
        time_together(pool, [lambda: meeting.wait(10)] * 3, math.inf)
    assert not meeting.broken


def test_short_tasks_are_repeated() -> None:
    calls: list[int] = []
    with ThreadPoolExecutor(1) as pool:
        time_together(pool, [lambda: calls.append(1)], math.inf)
        assert len(calls) == 1
        time_together(pool, [lambda: calls.append(1)], 0.002)
    assert len(calls) == 1 + 10


def test_seconds_are_the_work_of_one_task_and_not_the_waiting() -> None:
    def work() -> None:
        started = time.thread_time()
        while time.thread_time() - started < 0.01:
            pass
        time.sleep(0.05)  # as if another program had the core

    with ThreadPoolExecutor(1) as pool:
        assert time_together(pool, [work], 0.01) == pytest.approx(0.01, rel=0.2)


def test_parameters() -> None:
    full = calibration_parameters(1 << 16, 3)
    assert full == Parameters(1 << 16, 12, 59, 60, 3, 128) and full.is_secure()
    assert calibration_parameters(1 << 12, 3).insecure
