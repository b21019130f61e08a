"""What the training of faces and of images shares: epochs, checkpoints and batch statistics.

A checkpoint is replaced after every epoch, in one step, so that an interrupted run never leaves
half of one. It holds all that the next epoch depends on, random state included: a resumed run has
on one thread of a CPU the same weights as one that was never interrupted.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from fhecompile.errors import FheCompileError
from runtime.progress import ProgressBar


class Batches(Protocol):
    """Batches of images and labels, in a new order whenever they are gone through."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Any]: ...


class Trainer:
    """A run that can be interrupted.

    Args:
        settings: a NamedTuple with `epochs` and `seed`; a resumed run must have the same.
        modules: all that is trained; moved to the device.
        device: where it is trained.

    A subclass sets `optimiser` and `scheduler`, which is stepped after each epoch, and defines
    `step`. All that is random comes from `generator`, none from torch's global generator.
    """

    optimiser: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler
    changeable: tuple[str, ...] = ()
    """Settings that may differ in a resumed run."""

    def __init__(self, settings: Any, modules: nn.Module, device: torch.device) -> None:
        self.settings, self.device, self.epoch = settings, device, 0
        self.modules = modules.to(device)
        self.generator = torch.Generator().manual_seed(settings.seed)

    def step(self, images: Tensor, labels: Tensor) -> Tensor:
        """Take one step of the optimiser; returns the loss, without gradient."""
        raise NotImplementedError

    def augment(self, images: Tensor) -> Tensor:
        """Return images as they are trained on."""
        return images

    def run_epoch(self, batches: Batches, bar: ProgressBar) -> float:
        """Train on every batch once; returns the mean loss.

        FheCompileError `training-diverged` if it is not finite.
        """
        self.modules.train()
        total = torch.zeros((), device=self.device)
        bar.start(f"epoch {self.epoch + 1} of {self.settings.epochs}")
        for done, (images, labels) in enumerate(batches):
            total += self.step(self.augment(images).to(self.device), labels.to(self.device))
            bar.update((done + 1) / len(batches))
        bar.finish()
        self.scheduler.step()
        self.epoch += 1
        loss = float(total) / len(batches)
        if not np.isfinite(loss):
            raise FheCompileError(
                "training-diverged",
                f"the loss of epoch {self.epoch} is not finite",
                hint="resume with a lower --rate, or look for images unlike the others",
            )
        return loss

    def run(self, batches: Batches, checkpoint: Path) -> None:
        """Train to the last epoch, with a checkpoint and a printed line after each."""
        bar = ProgressBar(sys.stderr)
        while self.epoch < self.settings.epochs:
            started = time.monotonic()
            loss = self.run_epoch(batches, bar)
            self.save(checkpoint)
            seconds = time.monotonic() - started
            print(f"epoch {self.epoch}: loss {loss:.3f}, {seconds:.0f} s", flush=True)

    def save(self, path: Path) -> None:
        """Replace the checkpoint at `path`; a reader sees the old one or the new one."""
        state = {
            "settings": self.settings._asdict(),
            "epoch": self.epoch,
            "modules": self.modules.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "generator": self.generator.get_state(),
        }
        temporary = path.with_name(f"{path.name}.{os.getpid()}")
        try:
            with temporary.open("wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    def load(self, path: Path) -> None:
        """Go on where the checkpoint at `path` was written.

        FheCompileError `checkpoint` if it cannot be read or is of other settings.
        """
        asked = self.settings._asdict()
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            stored = dict(state["settings"], **{name: asked[name] for name in self.changeable})
        except Exception as error:  # torch.load raises nearly anything
            raise FheCompileError(
                "checkpoint", "this is no checkpoint that can be read", node=str(path)
            ) from error
        other = [f"{k} {stored.get(k)}, not {v}" for k, v in asked.items() if stored.get(k) != v]
        if other:
            raise FheCompileError(
                "checkpoint",
                f"the checkpoint was trained with {'; '.join(other)}",
                node=str(path),
                hint="resume with the settings it was started with, or start in another folder",
            )
        self.epoch = state["epoch"]
        self.modules.load_state_dict(state["modules"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.generator.set_state(state["generator"])


def open_folder(folder: Path, resume: bool) -> Path:
    """Make the folder of a run; returns the path of its checkpoint.

    FheCompileError `checkpoint` if there is one that is not to be resumed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / "checkpoint.pt"
    if checkpoint.exists() and not resume:
        raise FheCompileError(
            "checkpoint",
            "there is a checkpoint of an earlier run",
            node=str(checkpoint),
            hint="go on with --resume, or delete it",
        )
    return checkpoint


def average_statistics(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Set each running mean and variance to its average over `batches`, in training mode."""
    norms = [m for m in network.modules() if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d))]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch's sign for a plain average
    network.train()
    with torch.no_grad():
        for images in batches:
            network(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
