"""Client: turns pairs of images into the arrays that the plan takes.

Pairs are lines `path path label` of a text file, or the arrays `image0` and `image1` of an HDF5
file, whose elements are encoded images. Faces are not searched for: an image is to be aligned
already. Of one that is not square the middle is taken, with a warning.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from stages import Stage, make_private, run_stage

from fhecompile.errors import EXIT_ENVIRONMENT, FheCompileError
from fhecompile.plan import Plan
from fhecompile.plan.schema import InputInfo
from models.faces.pair_files import Pixels, load_image, read_list
from runtime.command import complain
from runtime.face_alignment import prepare
from runtime.samples import write_outputs

Images = Iterator[tuple[Pixels, Pixels]]


def preprocess_input(stage: Stage) -> None:
    """Writes pairs, n x 2 x 1 x 3 x side x side, in the order they are given."""
    tensor = face_input(stage.load_plan())
    make_private(stage.prepared.parent)
    cut = 0
    pairs: list[list[NDArray[np.float32]]] = []
    for images in read_pairs(stage.pairs):
        squares = [middle_square(image) for image in images]
        cut += sum(a.shape != b.shape for a, b in zip(images, squares, strict=True))
        pairs.append([prepare(square, tensor.shape[-1]) for square in squares])
    if cut:
        complain(f"warning: {cut} images are not square, so no aligned faces: the middle is taken")
    array = np.array(pairs).reshape(len(pairs), *tensor.shape)
    write_outputs(stage.prepared, {tensor.name: array})


def face_input(plan: Plan) -> InputInfo:
    """The input of a plan; FheCompileError unless it is a pair of square images in colour."""
    tensor, *others = plan.program.inputs
    if others or tensor.shape != (2, 1, 3, *tensor.shape[-1:] * 2):
        shapes = ", ".join(" x ".join(map(str, info.shape)) for info in plan.program.inputs)
        raise FheCompileError(
            "no-face-model",
            f"the plan takes {shapes}, expected 2 x 1 x 3 x side x side",
            hint="give a network of one image, 1 x 3 x side x side, with --model",
        )
    return tensor


def read_pairs(path: Path) -> Images:
    """Pairs of images from a list or, if the name ends in .h5, from the suite's file."""
    if path.suffix == ".h5":
        yield from _read_suite(path)
    else:
        for pair in read_list(path):
            yield pair.first, pair.second


def _read_suite(path: Path) -> Images:
    try:
        import h5py
    except ImportError as error:
        raise FheCompileError(
            "missing-library",
            "h5py is not installed, which reads this file",
            node=str(path),
            hint="pip install h5py, or give a text file with --pairs",
            exit_code=EXIT_ENVIRONMENT,
        ) from error
    try:
        with h5py.File(path) as file:
            first, second = file["image0"], file["image1"]
            if len(first) != len(second) or not len(first):
                raise ValueError(f"{len(first)} and {len(second)} images are no pairs")
            for number, (one, other) in enumerate(zip(first, second, strict=True)):
                name = f"{path}, pair {number}"
                yield load_image(one.tobytes(), name), load_image(other.tobytes(), name)
    except FileNotFoundError:
        raise FheCompileError(
            "pair-file", "there is no such file", node=str(path), hint="give another with --pairs"
        ) from None
    except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
        raise FheCompileError(
            "pair-file", f"this is no file of pairs of images: {error}", node=str(path)
        ) from error


def middle_square(image: Pixels) -> Pixels:
    """The largest square around the middle of an image, height x width x 3."""
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return image[top : top + side, left : left + side]


if __name__ == "__main__":
    run_stage(preprocess_input, __doc__)
