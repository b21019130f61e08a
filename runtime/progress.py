"""How far a run is: a line on a terminal for people, lines of JSON for programs."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import TextIO

WIDTH = 30
SECONDS_BETWEEN = 0.2
SHARE_TO_JUDGE = 0.02


class Estimate:
    """How long a run still takes: at its own rate once that can be judged, before as predicted.

    The rate is that since the start, of which an earlier process may have done a share.
    """

    def __init__(self, now: float, share: float = 0.0, predicted: float | None = None) -> None:
        self.started, self.first, self.predicted = now, share, predicted

    def left(self, share: float, now: float) -> float | None:
        """Seconds, given the share that is done now; None: nothing is known yet."""
        gained = share - self.first
        if gained >= SHARE_TO_JUDGE * (1 - self.first) and gained > 0:
            return (now - self.started) * (1 - share) / gained
        return None if self.predicted is None else self.predicted * (1 - share)


class ProgressBar:
    """`evaluate [###.....]  40 %  0:12, 0:18 left`; silent where `stream` is no terminal.

    Args:
        stream: where to draw.
        clock: seconds; for tests.
    """

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self.stream, self.clock = stream, clock
        self.shown = stream.isatty()
        self._lock = threading.Lock()
        self._label, self._share, self._drawn = "", 0.0, -1.0
        self._estimate = Estimate(clock())

    def start(self, label: str) -> None:
        """Begins a phase; drawn as its label until the first `update`."""
        with self._lock:
            self._label, self._share, self._drawn = label, 0.0, -1.0
            self._estimate = Estimate(self.clock())
            self._write(f"{label} ...")

    def begin(self, share: float, predicted: float) -> None:
        """Says of the phase what share is done already, and the predicted seconds of all of it."""
        with self._lock:
            self._share = share
            self._estimate = Estimate(self.clock(), share, predicted)
            self._write(self.line(0.0))

    def update(self, share: float) -> None:
        """Draws the share of the phase that is done; may be called from any thread."""
        with self._lock:
            now = self.clock()
            self._share = max(self._share, min(share, 1.0))
            if now - self._drawn >= SECONDS_BETWEEN:
                self._drawn = now
                self._write(self.line(now - self._estimate.started))

    def finish(self) -> None:
        """Clears the line."""
        with self._lock:
            self._write("")

    def line(self, elapsed: float) -> str:
        """The text of the bar."""
        full = round(WIDTH * self._share)
        seconds = self._estimate.left(self._share, self._estimate.started + elapsed)
        left = "" if seconds is None else f", {_clock(seconds)} left"
        bar = "#" * full + "." * (WIDTH - full)
        return f"{self._label} [{bar}] {100 * self._share:3.0f} %  {_clock(elapsed)}{left}"

    def _write(self, text: str) -> None:
        if not self.shown:
            return
        try:
            self.stream.write(f"\r\x1b[K{text}")
            self.stream.flush()
        except (OSError, ValueError):  # the terminal is gone; the run goes on
            self.shown = False


class JsonProgress:
    """A line `{"progress": 0.25, "seconds_left": 90.0}` per whole percent of a run, and at its end.

    Without the second where nothing is known of it yet.

    Args:
        stream: where to write.
        clock: seconds; for tests.
    """

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self.stream, self.clock = stream, clock
        self._lock = threading.Lock()
        self._said = -1
        self._estimate = Estimate(clock())

    def begin(self, share: float, predicted: float) -> None:
        """See `ProgressBar.begin`."""
        with self._lock:
            self._estimate = Estimate(self.clock(), share, predicted)
        self.update(share)

    def update(self, share: float) -> None:
        """Says the share of the run that is done; may be called from any thread."""
        with self._lock:
            percent = int(100 * share)
            if percent > self._said:
                self._said = percent
                left = self._estimate.left(share, self.clock())
                known = {} if left is None else {"seconds_left": round(left, 1)}
                self.stream.write(json.dumps({"progress": percent / 100, **known}) + "\n")
                self.stream.flush()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
