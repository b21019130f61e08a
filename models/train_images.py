"""Training of image classifiers: `python -m models.train_images --data synthetic --out DIR`.

The loss of a batch is

    cross-entropy(logits) + P sum over ReLUs of mean over images of max(0, max |x| / s - `PEAK`)

with x what goes into the ReLU for one image, s the root of the mean of x^2 over the batch and P
`--range-penalty`. Encrypted, a ReLU is a polynomial or a Fourier series on the range of calibration
data, whose error goes with that range, while what x tells goes with s: so the largest values of an
image are held back, in units of s. A mean over all excesses would hardly see a rare one.

It is minimised by stochastic gradient descent with momentum 0.9 and weight decay 5e-4; the learning
rate falls from `--rate` to 0 as half a cosine. An image is mirrored or not and shifted by up to
`SHIFT` pixels to each side, with zeros behind it. Last, the running statistics of batch norms are
replaced by plain averages over training images with the final weights.

`--data` is `synthetic` (`models/images/synthetic.py`: images of seed 2 seed to train, of 2 seed + 1
to test) or CIFAR-10 as published (`models/images/cifar.py`). `DIR/checkpoint.pt` is replaced after
every epoch; `--resume` goes on from there (`models/training.py`). At the end are written

    DIR/NETWORK.onnx                input `image`, 1 x 3 x 32 x 32 in [-1, 1]; output `logits`
    DIR/NETWORK_calibration.npz     `image`: training images
    DIR/NETWORK_test.npz            `image` and `label`: test images

and the accuracy on all test images is printed, with the widest ReLU's largest |x| / s there.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fhecompile.errors import FheCompileError
from models import resnet, torch_export, vgg
from models.images import synthetic
from models.images.cifar import read_cifar
from models.images.dataset import LabelledImages, prepare
from models.peaks import PeakPenalty
from models.training import Trainer, average_statistics, open_folder

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    **{f"resnet{depth}": partial(resnet.ResNet, depth) for depth in resnet.DEPTHS},
    "vgg11": vgg.VGG11,
    "vgg11max": partial(vgg.VGG11, "max"),
}
MOMENTUM = 0.9
WEIGHT_DECAY = 5e-4
PEAK = 4.0
"""Of |x| / s; the largest of 16,384 normal values, a layer of ResNet's first stage, is about 4."""
SHIFT = 2
STATISTICS_BATCHES = 64


class Settings(NamedTuple):
    """What a run is."""

    network: str = "resnet20"
    images: int = 0
    epochs: int = 10
    batch: int = 64
    rate: float = 0.05
    range_penalty: float = 0.05
    seed: int = 0


class ImageBatches:
    """Shuffled batches of float32 images in [-1, 1] and labels, in an order of `generator`.

    The last images that fill no batch are left for another epoch. FheCompileError `training-set`
    for fewer than a batch.
    """

    def __init__(self, data: LabelledImages, size: int, generator: torch.Generator) -> None:
        if len(data.images) < size:
            raise FheCompileError(
                "training-set", f"{len(data.images)} images do not fill a batch of {size}"
            )
        self.data, self.size, self.generator = data, size, generator

    def __len__(self) -> int:
        return len(self.data.images) // self.size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.data.images), generator=self.generator)
        for chosen in order[: len(self) * self.size].view(-1, self.size).numpy():
            images = torch.from_numpy(prepare(self.data.images[chosen]))
            yield images, torch.from_numpy(self.data.labels[chosen])


def measure_peaks(_module: nn.Module, inputs: tuple[Tensor, ...], _output: Tensor) -> Tensor:
    """Return a ReLU's input over the root of its mean square."""
    return inputs[0] / inputs[0].square().mean().sqrt()


class ImageTrainer(Trainer):
    """The network and its optimiser; the first weights come from `settings.seed` too."""

    def __init__(self, settings: Settings, device: torch.device) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            self.network = NETWORKS[settings.network]()
        super().__init__(settings, self.network, device)
        relus = [m for m in self.network.modules() if isinstance(m, nn.ReLU)]
        self.peaks = PeakPenalty(relus, PEAK, measure_peaks)
        self.optimiser = torch.optim.SGD(
            self.network.parameters(), settings.rate, MOMENTUM, weight_decay=WEIGHT_DECAY
        )
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimiser, settings.epochs)

    def augment(self, images: Tensor) -> Tensor:
        count, _, height, width = images.shape
        mirrored = torch.rand(count, generator=self.generator) < 0.5
        images = torch.where(mirrored.view(-1, 1, 1, 1), images.flip(3), images)
        padded = functional.pad(images, (SHIFT,) * 4)
        corners = torch.randint(2 * SHIFT + 1, (count, 2), generator=self.generator).tolist()
        return torch.stack(
            [
                image[:, top : top + height, left : left + width]
                for image, (top, left) in zip(padded, corners, strict=True)
            ]
        )

    def step(self, images: Tensor, labels: Tensor) -> Tensor:
        with self.peaks:
            logits = self.network(images)
        loss = functional.cross_entropy(logits, labels)
        loss = loss + self.settings.range_penalty * self.peaks.total
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        return loss.detach()


class Report(NamedTuple):
    """What a network does on test images."""

    accuracy: float
    widest: float
    """The largest |x| / s of all ReLUs, s the root of the mean of x^2 over all images."""


def evaluate(network: nn.Module, data: LabelledImages, batch: int = 100) -> Report:
    """Test a network; leaves eval mode behind."""
    network.eval()
    device = next(network.parameters()).device
    largest: dict[nn.Module, float] = {}
    squares: dict[nn.Module, float] = {}

    def record(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        largest[module] = max(largest.get(module, 0.0), float(inputs[0].abs().max()))
        squares[module] = squares.get(module, 0.0) + float(inputs[0].square().sum())
        sizes[module] = sizes.get(module, 0) + inputs[0].numel()

    sizes: dict[nn.Module, int] = {}
    relus = [m for m in network.modules() if isinstance(m, nn.ReLU)]
    handles = [relu.register_forward_pre_hook(record) for relu in relus]
    right = 0
    with torch.no_grad():
        for first in range(0, len(data.images), batch):
            images = torch.from_numpy(prepare(data.images[first : first + batch])).to(device)
            classes = network(images).argmax(dim=1).cpu().numpy()
            right += int((classes == data.labels[first : first + batch]).sum())
    for handle in handles:
        handle.remove()
    widest = max(largest[relu] / (squares[relu] / sizes[relu]) ** 0.5 for relu in relus)
    return Report(right / len(data.images), widest)


def read_data(options: argparse.Namespace) -> tuple[LabelledImages, LabelledImages]:
    """Load what `--data` names: images to train and to test with."""
    if options.data == "synthetic":
        training = synthetic.draw_images(2 * options.seed, options.images)
        return training, synthetic.draw_images(2 * options.seed + 1, options.test_images)
    cifar = read_cifar(Path(options.data))
    return cifar.training, cifar.test


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m models.train_images")
    parser.add_argument("--data", required=True, help="`synthetic`, or where CIFAR-10 is")
    parser.add_argument("--out", type=Path, required=True, help="folder for what is written")
    parser.add_argument("--network", choices=list(NETWORKS), default="resnet20")
    parser.add_argument("--images", type=int, default=12000, help="synthetic: to train on")
    parser.add_argument("--test-images", type=int, default=500, help="synthetic: to test with")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=0.05, help="learning rate; goes with --batch")
    parser.add_argument("--range-penalty", type=float, default=0.05, help="0 for none")
    parser.add_argument("--calibration", type=int, default=64, help="images to calibrate with")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    return parser.parse_args(arguments)


def train(options: argparse.Namespace) -> Path:
    """Train as the command line says; returns the path of the ONNX file."""
    checkpoint = open_folder(options.out, options.resume)
    training, test = read_data(options)
    settings = Settings(
        network=options.network,
        images=len(training.images),
        epochs=options.epochs,
        batch=options.batch,
        rate=options.rate,
        range_penalty=options.range_penalty,
        seed=options.seed,
    )
    trainer = ImageTrainer(settings, torch.device(options.device))
    if options.resume and checkpoint.exists():
        trainer.load(checkpoint)
    batches = ImageBatches(training, settings.batch, trainer.generator)
    trainer.run(batches, checkpoint)

    network = trainer.network
    some = itertools.islice(batches, STATISTICS_BATCHES)
    average_statistics(network, (images.to(trainer.device) for images, _ in some))
    report = evaluate(network, test)
    print(
        f"{len(test.images)} test images: accuracy {100 * report.accuracy:.2f} %, "
        f"largest |x| of a ReLU {report.widest:.1f} s"
    )
    path: Path = options.out / f"{options.network}.onnx"
    calibration = prepare(training.images[: options.calibration])
    torch_export.export_onnx(network.cpu(), torch.from_numpy(calibration[:1]), path, "logits")
    np.savez_compressed(path.with_name(f"{path.stem}_calibration.npz"), image=calibration)
    np.savez_compressed(
        path.with_name(f"{path.stem}_test.npz"), image=prepare(test.images), label=test.labels
    )
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
