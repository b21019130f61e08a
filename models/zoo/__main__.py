"""Command line of the zoo; see the package's docstring."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from models.zoo.large_digits import enlarge_digits
from models.zoo.square_networks import SQUARE_NETWORKS, build_square_network

FOLDER = Path(__file__).parents[1]
CALIBRATION_SEED, TEST_SEED = 0, 1


def large_digits(part: str) -> NDArray[np.float32]:
    """The enlarged digits of the "calibration" or "test" set."""
    with np.load(FOLDER / f"digits_{part}.npz") as data:
        return enlarge_digits(data["image"], TEST_SEED if part == "test" else CALIBRATION_SEED)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns 0."""
    parser = argparse.ArgumentParser(prog="python -m models.zoo")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="the names of all networks")
    for name, text in (
        ("export", "write the ONNX file of a network"),
        ("data", "write its samples: `image` to calibrate with, `test` and `label` to test"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("network", choices=list(SQUARE_NETWORKS), metavar="NAME")
        command.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    if options.command == "list":
        print("\n".join(SQUARE_NETWORKS))
    elif options.command == "export":
        model = build_square_network(options.network, large_digits("calibration"))
        onnx.save(model, options.out)
        print(f"{options.out.name}: {options.out.stat().st_size} bytes")
    else:
        with np.load(FOLDER / "digits_test.npz") as data:
            label = data["label"]
        image, test = large_digits("calibration"), large_digits("test")
        np.savez_compressed(options.out, image=image, test=test, label=label)
        print(f"{options.out.name}: {len(image)} samples to calibrate, {len(test)} to test")
    return 0


if __name__ == "__main__":
    sys.exit(main())
