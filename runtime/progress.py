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
        self._label, self._share, self._started, self._drawn = "", 0.0, clock(), -1.0

    def start(self, label: str) -> None:
        """Begins a phase; drawn as its label until the first `update`."""
        with self._lock:
            self._label, self._share = label, 0.0
            self._started, self._drawn = self.clock(), -1.0
            self._write(f"{label} ...")

    def update(self, share: float) -> None:
        """Draws the share of the phase that is done; may be called from any thread."""
        with self._lock:
            now = self.clock()
            self._share = max(self._share, min(share, 1.0))
            if now - self._drawn >= SECONDS_BETWEEN:
                self._drawn = now
                self._write(self.line(now - self._started))

    def finish(self) -> None:
        """Clears the line."""
        with self._lock:
            self._write("")

    def line(self, elapsed: float) -> str:
        """The text of the bar."""
        full = round(WIDTH * self._share)
        left = ""
        if self._share >= SHARE_TO_JUDGE:
            left = f", {_clock(elapsed * (1 - self._share) / self._share)} left"
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
    """A line `{"progress": 0.25}` on `stream` per whole percent of a run, and at its end."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self._lock = threading.Lock()
        self._said = -1

    def update(self, share: float) -> None:
        """Says the share of the run that is done; may be called from any thread."""
        with self._lock:
            percent = int(100 * share)
            if percent > self._said:
                self._said = percent
                self.stream.write(json.dumps({"progress": percent / 100}) + "\n")
                self.stream.flush()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
