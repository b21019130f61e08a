"""Synthetic signals of 64 values in four classes: sine, square, sawtooth, chirp.

With a phase p and a frequency f of 2 to 5 periods, t = 0, 1/64, ... and u = f t + p,

    sine  sin 2 pi u        square    sign(sin 2 pi u)
    chirp sin 2 pi u (t+1/2)   sawtooth  2 (u mod 1) - 1

times an amplitude of 0.6 to 0.9, plus normal noise of standard deviation 0.1, cut to [-1, 1] and
rounded to 128 steps. Everything comes from the seed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LENGTH = 64
CLASSES = ("sine", "square", "sawtooth", "chirp")
NOISE = 0.1


def draw_signals(count: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Returns signals (count, 1, 64) in [-1, 1] and classes (count), as many of each."""
    random = np.random.default_rng(seed)
    label = random.permutation(np.arange(count) % len(CLASSES))
    t = np.arange(LENGTH) / LENGTH
    frequency, phase = random.uniform(2, 5, (count, 1)), random.uniform(0, 1, (count, 1))
    u = frequency * t + phase
    sine = np.sin(2 * np.pi * u)
    kinds = np.stack(
        [sine, np.sign(sine), 2 * (u % 1) - 1, np.sin(2 * np.pi * (u * (t + 0.5)))],
    )
    amplitude = random.uniform(0.6, 0.9, (count, 1))
    signals = amplitude * kinds[label, np.arange(count)]
    signals += NOISE * random.standard_normal(signals.shape)
    rounded = np.rint(64 * np.clip(signals, -1, 1)) / 64
    return rounded[:, None].astype(np.float32), label.astype(np.int64)
