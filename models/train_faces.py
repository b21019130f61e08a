"""Training of CryptoFaceNet: `python -m models.train_faces --data synthetic --size 64 --out DIR`.

The loss of a batch is

    ArcFace(embedding) + 0.005 jigsaw(patch features) + 0.05 peaks

(`models/faces/losses.py`), minimised by stochastic gradient descent: learning rate 0.05, momentum
0.9, weight decay 5e-4, the rate divided by ten at each milestone, every entry of the gradient
limited to [-1, 1]. The rate is for batches of 256 and goes with their size: with 32 images hardly
anything is learnt at 0.05, but is at 0.00625. `--data` is a folder with a folder of aligned images
for each person, or `synthetic` (`models/faces/synthetic.py`: people of population 2 seed to train,
of 2 seed + 1 to test). Images of a folder are mirrored at random.

A polynomial network is bounded only where it was trained: a value k deviations from a batch norm's
mean leaves a quadratic as about k^2, and eleven follow each other. In training mode nothing is seen
of that, since a rare value is part of the statistics that divide it; with running statistics a few
of a thousand unseen faces overflow float32. Hence the loss's last term, which holds rare values
back, and the last step: running statistics, noisy averages over batches of weights that still
moved, are replaced by plain averages over training images with the final weights. The largest value
in the network over test images (or, where there are none, training images) is printed.

`DIR/checkpoint.pt` is replaced after every epoch, and `--resume` goes on from there
(`models/training.py`), also to more epochs than before. At the end
`DIR/cryptofacenet<patches>.onnx` is written.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from fhecompile.errors import FheCompileError
from models import torch_export
from models.cryptofacenet import BLOCKS, EMBEDDING, POOLED, CryptoFaceNet, patches_per_side
from models.faces import evaluation, pair_files, synthetic
from models.faces.losses import ArcFace, Jigsaw, watch_peaks
from models.faces.pair_files import FacePairs, Source
from models.training import Trainer, average_statistics, open_folder
from runtime import face_alignment

JIGSAW_WEIGHT = 0.005
PEAK_WEIGHT = 0.05
MOMENTUM = 0.9
WEIGHT_DECAY = 5e-4
GRADIENT_LIMIT = 1.0
STATISTICS_BATCHES = 64
FARS = (1e-1, 1e-2, 1e-3)


class FaceImages(Dataset):
    """Labelled faces; item k is (3 x size x size float32 in [-1, 1], label).

    Args:
        images: where each image comes from.
        labels: the person of each, 0 .. people - 1.
        size: side of the network's input.
    """

    def __init__(self, images: Sequence[Source], labels: Sequence[int], size: int) -> None:
        self.images, self.labels, self.size = images, labels, size
        self.people = max(labels) + 1

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        pixels = pair_files.load_image(self.images[index], f"training image {index}")
        return torch.from_numpy(face_alignment.prepare(pixels, self.size)), self.labels[index]


class Settings(NamedTuple):
    """What a run is; the checkpoint keeps it.

    `milestones` are epochs, the first being 1; `mirror` mirrors half of the images.
    """

    size: int = 64
    people: int = 0
    epochs: int = 20
    batch: int = 256
    rate: float = 0.05
    milestones: tuple[int, ...] = ()
    scale: float = 64.0
    margin: float = 0.5
    mirror: bool = False
    seed: int = 0


class FaceTrainer(Trainer):
    """The network, its losses and optimiser, and the random state of a run.

    Random are the first weights, the order of images, mirroring and the jigsaw.
    """

    changeable = ("epochs",)

    def __init__(self, settings: Settings, device: torch.device) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            self.network = CryptoFaceNet(settings.size)
            self.arcface = ArcFace(settings.people, EMBEDDING, settings.scale, settings.margin)
            self.jigsaw = Jigsaw(self.network.side**2, BLOCKS[-1][0] * POOLED**2)
        modules = nn.ModuleList([self.network, self.arcface, self.jigsaw])
        super().__init__(settings, modules, device)
        self.peaks = watch_peaks(self.network)
        self.optimiser = torch.optim.SGD(
            self.modules.parameters(), settings.rate, MOMENTUM, weight_decay=WEIGHT_DECAY
        )
        self.scheduler = torch.optim.lr_scheduler.MultiStepLR(
            self.optimiser, list(settings.milestones)
        )

    def augment(self, images: Tensor) -> Tensor:
        if not self.settings.mirror:
            return images
        mirrored = torch.rand(len(images), generator=self.generator) < 0.5
        return torch.where(mirrored.view(-1, 1, 1, 1), images.flip(3), images)

    def step(self, images: Tensor, labels: Tensor) -> Tensor:
        with self.peaks:
            features = self.network.patch_features(images)
        loss = self.arcface(self.network.embed(features), labels) + PEAK_WEIGHT * self.peaks.total
        if len(features) > 1:
            loss = loss + JIGSAW_WEIGHT * self.jigsaw(features, self.generator)
        self.optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_value_(self.modules.parameters(), GRADIENT_LIMIT)
        self.optimiser.step()
        return loss.detach()


def make_loader(
    images: FaceImages, settings: Settings, generator: torch.Generator, workers: int
) -> DataLoader:
    """Return shuffled batches; the last ones that fill none are left for another epoch.

    FheCompileError `face-folder` for fewer images than a batch.
    """
    if len(images) < settings.batch:
        raise FheCompileError(
            "face-folder", f"{len(images)} images do not fill a batch of {settings.batch}"
        )
    return DataLoader(
        images,
        settings.batch,
        shuffle=True,
        drop_last=True,
        generator=generator,
        num_workers=workers,
    )


def embed(network: CryptoFaceNet, pairs: FacePairs, size: int, batch: int = 64) -> np.ndarray:
    """Return the embeddings of all images of `pairs`, n x 256 float64; leaves eval mode behind."""
    network.eval()
    device = next(network.parameters()).device
    rows = []
    with torch.no_grad():
        for first in range(0, len(pairs.images), batch):
            numbers = range(first, min(first + batch, len(pairs.images)))
            images = np.stack([face_alignment.prepare(pairs.image(k), size) for k in numbers])
            rows.append(network(torch.from_numpy(images).to(device)).cpu().double().numpy())
    return np.concatenate(rows)


def report_pairs(embeddings: np.ndarray, pairs: FacePairs) -> str:
    """Return one line of figures for a set of pairs, whose images have these embeddings."""
    first, second = (embeddings[pairs.pairs[:, side]] for side in (0, 1))
    scores = evaluation.cosine_scores(first, second)
    found = evaluation.verify(scores, pairs.same)
    tars = zip(FARS, evaluation.tar_at_far(scores, pairs.same, FARS), strict=True)
    return (
        f"{pairs.name}: {len(pairs)} pairs, accuracy {100 * found.accuracy:.2f} % "
        f"(deviation {100 * found.deviation:.2f}), "
        f"EER {100 * evaluation.equal_error_rate(scores, pairs.same):.2f} %, TAR "
        + ", ".join(f"{100 * tar:.1f} % at FAR {far:g}" for far, tar in tars)
    )


def read_training_set(options: argparse.Namespace) -> FaceImages:
    """Load what `--data` names."""
    if options.data == "synthetic":
        pixels = synthetic.draw_people(
            2 * options.seed, options.people, options.images, options.size
        )
        labels = np.repeat(np.arange(options.people), options.images).tolist()
        return FaceImages(list(pixels), labels, options.size)
    people = pair_files.read_people(Path(options.data))
    files = [(path, label) for label, paths in enumerate(people.values()) for path in paths]
    return FaceImages([path for path, _ in files], [label for _, label in files], options.size)


def read_test_sets(options: argparse.Namespace) -> list[FacePairs]:
    """Load `--pairs`, and pairs of unseen people if the training set is synthetic."""
    sets = [
        pair_files.read_bin(path) if path.suffix == ".bin" else pair_files.read_list(path)
        for path in options.pairs
    ]
    if options.data == "synthetic":
        seed = 2 * options.seed + 1
        sets.append(synthetic.synthetic_pairs(seed, 100, 6, options.size, 1200))
    return sets


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m models.train_faces")
    parser.add_argument("--data", required=True, help="`synthetic`, or a folder of people")
    parser.add_argument("--out", type=Path, required=True, help="folder for what is written")
    parser.add_argument("--pairs", type=Path, nargs="*", default=[], help=".bin files, pair lists")
    parser.add_argument("--size", type=int, default=64, help="side of the input, multiple of 32")
    parser.add_argument("--people", type=int, default=400, help="synthetic: people to train on")
    parser.add_argument("--images", type=int, default=16, help="synthetic: images of each")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rate", type=float, default=0.05, help="learning rate; goes with --batch")
    parser.add_argument("--milestones", type=int, nargs="*", default=[12, 16, 18])
    parser.add_argument("--scale", type=float, default=64.0, help="ArcFace's s")
    parser.add_argument("--margin", type=float, default=0.5, help="ArcFace's m, radians")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--workers", type=int, default=0, help="processes that decode images")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    options = parser.parse_args(arguments)
    try:
        patches_per_side(options.size)
    except ValueError as error:
        parser.error(str(error))
    return options


def train(options: argparse.Namespace) -> Path:
    """Train as the command line says; returns the path of the ONNX file."""
    checkpoint = open_folder(options.out, options.resume)
    tests = read_test_sets(options)
    images = read_training_set(options)
    settings = Settings(
        size=options.size,
        people=images.people,
        epochs=options.epochs,
        batch=options.batch,
        rate=options.rate,
        milestones=tuple(options.milestones),
        scale=options.scale,
        margin=options.margin,
        mirror=options.data != "synthetic",
        seed=options.seed,
    )
    trainer = FaceTrainer(settings, torch.device(options.device))
    if options.resume and checkpoint.exists():
        trainer.load(checkpoint)
    loader = make_loader(images, settings, trainer.generator, options.workers)
    trainer.run(loader, checkpoint)

    network = trainer.network
    batches = (batch.to(trainer.device) for batch, _ in loader)
    average_statistics(network, itertools.islice(batches, STATISTICS_BATCHES))
    for pairs in tests:
        print(report_pairs(embed(network, pairs, settings.size), pairs))
    network.cpu()
    shown = tests[0].images if tests else images.images
    some = [pair_files.load_image(x, "image") for x in shown[:256]]
    inputs = torch.from_numpy(np.stack([face_alignment.prepare(x, settings.size) for x in some]))
    print(f"largest |value| {torch_export.find_peak_value(network, inputs):.1f}")
    path = options.out / f"cryptofacenet{network.side**2}.onnx"
    torch_export.export_onnx(network, inputs[:1], path, "embedding")
    return path


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns 0, or the exit code of what is wrong."""
    options = parse(arguments)
    try:
        path = train(options)
    except FheCompileError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(f"wrote {path.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
