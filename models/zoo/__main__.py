"""Command line of the zoo; see the package's docstring."""

from __future__ import annotations

import argparse
import logging
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from models.zoo.catalogue import CATALOGUE, FOLDER, SHIPPED, shipped_path
from models.zoo.samples import load_samples


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns 0."""
    parser = argparse.ArgumentParser(prog="python -m models.zoo")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="the names of all networks")
    for name, text in (
        ("export", "write the ONNX file of a network"),
        (
            "data",
            "write its samples: the input's name to calibrate with, `test` and `label` to test",
        ),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("network", choices=list(CATALOGUE), metavar="NAME")
        command.add_argument("--out", type=Path, required=True, help="file to write")
    command = commands.add_parser("train", help="train shipped networks anew")
    command.add_argument("network", nargs="*", metavar="NAME")
    command.add_argument("--out", type=Path, default=FOLDER, help="folder to write to")
    command.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if options.command == "train" and (unknown := {*options.network} - {*SHIPPED}):
        parser.error(f"not trained here: {', '.join(sorted(unknown))}")
    if options.command == "list":
        for name, entry in CATALOGUE.items():
            print(f"{name:16} {entry.samples}")
    elif options.command == "export":
        _export(options.network, options.out)
    elif options.command == "data":
        _write_data(options.network, options.out)
    else:
        _train(options.network or SHIPPED, options.out, options.seed)
    return 0


def _export(name: str, out: Path) -> None:
    if CATALOGUE[name].made_by == "seed":
        import onnx

        from models.zoo.square_networks import build_square_network

        images = load_samples(CATALOGUE[name].samples).calibration
        onnx.save(build_square_network(name, images), out)
    else:
        shutil.copyfile(shipped_path(name), out)
    print(f"{out.name}: {out.stat().st_size} bytes")


def _write_data(name: str, out: Path) -> None:
    samples = load_samples(CATALOGUE[name].samples)
    calibration: dict[str, Any] = {CATALOGUE[name].input: samples.calibration}
    np.savez_compressed(out, **calibration, test=samples.test, label=samples.label)
    print(
        f"{out.name}: {len(samples.calibration)} samples to calibrate, {len(samples.test)} to test"
    )


def _train(names: Sequence[str], folder: Path, seed: int) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        if CATALOGUE[name].made_by == "sklearn":
            from models.zoo import pipelines

            measured = pipelines.train(name, folder)
        else:
            from models.zoo import train

            measured = train.train(name, folder, seed)
        what = "accuracy" if CATALOGUE[name].classifies else "mean |error|"
        print(f"{name}.onnx: {what} {measured:.4f}")


if __name__ == "__main__":
    sys.exit(main())
