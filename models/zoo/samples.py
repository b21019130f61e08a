"""The samples of the zoo's networks: what to calibrate and what to test with.

Digits are scikit-learn's in `models.digits`' split. Of those to train with, every third is to
calibrate with; ranges of ReLU networks are wider than those of a hundred samples. Enlarged digits
and signals are made from seeds, so that only calibration files are kept, for budgets.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.zoo.large_digits import enlarge_digits
from models.zoo.signals import draw_signals

FOLDER = Path(__file__).parent
DIGITS_TEST = FOLDER.parent / "digits_test.npz"
# By what a network takes: n x 1 x 8 x 8, n x 1 x 28 x 28, n x 1 x 64, and digits as n x 64.
FILES = ("digits", "large_digits", "signals")
KINDS = (*FILES, "features")
CALIBRATION = {kind: FOLDER / f"{kind}_calibration.npz" for kind in FILES}
CALIBRATION_SEED, TEST_SEED, TRAINING_SEED = 0, 1, 2
CALIBRATION_SIGNALS, TEST_SIGNALS = 200, 400


class Samples(NamedTuple):
    """float32 inputs to calibrate and to test with, and the classes of those to test with."""

    calibration: NDArray[np.float32]
    test: NDArray[np.float32]
    label: NDArray[np.int64]


def load_samples(kind: str) -> Samples:
    """Returns the samples of a kind; KeyError if there is none of that name."""
    if kind == "features":
        calibration, test, label = load_samples("digits")
        return Samples(calibration.reshape(-1, 64), test.reshape(-1, 64), label)
    with np.load(CALIBRATION[kind]) as data:
        calibration = data["image"].astype(np.float32)
    if kind == "signals":
        return Samples(calibration, *draw_signals(TEST_SIGNALS, TEST_SEED))
    with np.load(DIGITS_TEST) as data:
        image, label = data["image"], data["label"]
    return Samples(
        calibration, enlarge_digits(image, TEST_SEED) if kind == "large_digits" else image, label
    )


def write_calibration(digits: NDArray[np.float32], folder: Path = FOLDER) -> None:
    """Writes the calibration files, given the digits that are to train with, n x 1 x 8 x 8."""
    chosen = digits[::3]
    arrays = {
        "digits": chosen,
        "large_digits": enlarge_digits(chosen[::2], CALIBRATION_SEED),
        "signals": draw_signals(CALIBRATION_SIGNALS, CALIBRATION_SEED)[0],
    }
    for kind, array in arrays.items():
        # All have 128 steps between -1 and 1, which half precision holds exactly.
        half: dict[str, Any] = {"image": array.astype(np.float16)}
        if kind == "digits":
            half["features"] = half["image"].reshape(len(array), -1)
        np.savez_compressed(folder / CALIBRATION[kind].name, **half)
