"""Training of image classifiers: range penalty by hand, and runs that can be interrupted."""

from __future__ import annotations

import io
import pickle
import re
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

torch = pytest.importorskip("torch", reason="networks are trained in torch, not installed")

from fhecompile.errors import FheCompileError  # noqa: E402  (after the skip)
from models import train_images  # noqa: E402
from models.images import cifar, synthetic  # noqa: E402
from models.images.dataset import LabelledImages, prepare  # noqa: E402
from models.peaks import PeakPenalty  # noqa: E402
from runtime.progress import ProgressBar  # noqa: E402

CPU = torch.device("cpu")
FEW = synthetic.draw_images(0, 24)


@pytest.fixture(autouse=True)
def small_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """ResNet-8 in place of ResNet-20."""
    torch.set_num_threads(1)
    monkeypatch.setitem(train_images.NETWORKS, "resnet20", lambda: train_images.resnet.ResNet(8))


def run(trainer: train_images.ImageTrainer, until: int, data: LabelledImages = FEW) -> list[float]:
    """Train up to an epoch; returns the losses."""
    batches = train_images.ImageBatches(data, trainer.settings.batch, trainer.generator)
    bar = ProgressBar(io.StringIO())
    return [trainer.run_epoch(batches, bar) for _ in range(until - trainer.epoch)]


def test_peaks_are_in_units_of_the_root_of_the_mean_square() -> None:
    relu = torch.nn.ReLU()
    penalty = PeakPenalty([relu], train_images.PEAK, train_images.measure_peaks)
    x = torch.ones(2, 1, 5, 10)
    x[0, 0, 0, 0] = -100.0
    scale = ((100.0**2 + 99) / 100) ** 0.5
    with penalty:
        relu(7 * x)
    assert penalty.total.item() == pytest.approx((100 / scale - train_images.PEAK) / 2, rel=1e-6)
    with penalty:
        relu(torch.ones(2, 1, 5, 10))
    assert penalty.total.item() == 0


def test_augmentation_shifts_and_mirrors() -> None:
    trainer = train_images.ImageTrainer(train_images.Settings(), CPU)
    image = torch.zeros(1, 3, 32, 32)
    image[0, :, 10, 7] = 1.0
    found = trainer.augment(image.expand(400, -1, -1, -1))
    assert found.shape == (400, 3, 32, 32)
    assert (found.sum(dim=(2, 3)) == 1).all()
    rows, columns = (x.tolist() for x in torch.nonzero(found[:, 0])[:, 1:].T)
    shift = train_images.SHIFT
    expected = {x + d for x in (7, 31 - 7) for d in range(-shift, shift + 1)}
    assert set(rows) == set(range(10 - shift, 11 + shift))
    assert set(columns) == expected


def test_a_resumed_run_gives_the_same_weights(tmp_path: Path) -> None:
    settings = train_images.Settings(images=24, epochs=3, batch=8)
    path = tmp_path / "checkpoint.pt"
    first = train_images.ImageTrainer(settings, CPU)
    run(first, 1)
    first.save(path)
    resumed, other = (train_images.ImageTrainer(settings, CPU) for _ in range(2))
    resumed.load(path)
    torch.rand(5)  # the global generator has no part in it
    run(resumed, 3)
    run(other, 3)
    states = [trainer.network.state_dict() for trainer in (resumed, other, first)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[1])
    assert not torch.equal(states[0]["linear.weight"], states[2]["linear.weight"])
    assert resumed.optimiser.param_groups[0]["lr"] == pytest.approx(0.0, abs=1e-12)


def test_a_run_of_other_settings(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    train_images.ImageTrainer(train_images.Settings(epochs=3), CPU).save(path)
    message = (
        f"{path}: the checkpoint was trained with epochs 3, not 4 [checkpoint]\n"
        "  hint: resume with the settings it was started with, or start in another folder"
    )
    with pytest.raises(FheCompileError, match=f"^{re.escape(message)}$"):
        train_images.ImageTrainer(train_images.Settings(epochs=4), CPU).load(path)


def test_training_learns_and_the_penalty_narrows_ranges() -> None:
    reports = {}
    for penalty in (0.0, 0.5):
        settings = train_images.Settings(images=24, epochs=12, batch=12, range_penalty=penalty)
        trainer = train_images.ImageTrainer(settings, CPU)
        losses = run(trainer, 12)
        assert losses[-1] < 0.6 * losses[0], losses
        batches = train_images.ImageBatches(FEW, 12, trainer.generator)
        train_images.average_statistics(trainer.network, (images for images, _ in batches))
        reports[penalty] = train_images.evaluate(trainer.network, FEW, batch=10)
    assert min(report.accuracy for report in reports.values()) > 0.5
    assert reports[0.5].widest < 0.9 * reports[0.0].widest


def test_report() -> None:
    """All images at once and in two parts, against a network that is one ReLU."""

    class Sums(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu = torch.nn.ReLU()
            self.weight = torch.nn.Parameter(torch.eye(10, 3))

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return self.relu(image).sum(dim=(2, 3)) @ self.weight.T

    x = prepare(FEW.images)
    classes = np.maximum(x, 0).sum(axis=(2, 3)).argmax(axis=1)
    expected = np.abs(x).max() / np.sqrt(np.square(x.astype(float)).mean())
    for batch in (24, 10):
        report = train_images.evaluate(Sums(), FEW, batch)
        assert report.accuracy == pytest.approx((classes == FEW.labels).mean())
        assert report.widest == pytest.approx(expected, rel=1e-5)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    command = ["--data", "synthetic", "--images", "24", "--test-images", "30", "--batch", "12"]
    command += ["--epochs", "2", "--calibration", "5", "--out", str(out)]
    assert train_images.main(command) == 0
    shown = capsys.readouterr()
    found = re.search(
        r"^30 test images: accuracy ([0-9.]+) %, largest \|x\| of a ReLU [0-9.]+ s$",
        shown.out,
        re.MULTILINE,
    )
    assert found
    assert re.findall(r"^epoch (\d): loss [0-9.]+, \d+ s$", shown.out, re.MULTILINE) == ["1", "2"]
    assert shown.out.endswith("wrote resnet20.onnx\n")
    assert shown.err == ""  # no bar where there is no terminal
    session = onnxruntime.InferenceSession(str(out / "resnet20.onnx"))
    with np.load(out / "resnet20_test.npz") as data:
        classes = [session.run(None, {"image": x[None]})[0].argmax() for x in data["image"]]
        assert f"{100 * np.mean(classes == data['label']):.2f}" == found.group(1)
        assert np.array_equal(data["image"], prepare(synthetic.draw_images(1, 30).images))
    with np.load(out / "resnet20_calibration.npz") as data:
        assert np.array_equal(data["image"], prepare(FEW.images[:5]))

    assert train_images.main(command) == 2
    assert capsys.readouterr().err == (
        f"{out / 'checkpoint.pt'}: there is a checkpoint of an earlier run [checkpoint]\n"
        "  hint: go on with --resume, or delete it\n"
    )
    before = (out / "resnet20.onnx").read_bytes()
    assert train_images.main([*command, "--resume"]) == 0
    assert "epoch" not in capsys.readouterr().out
    assert (out / "resnet20.onnx").read_bytes() == before


def test_cifar(tmp_path: Path) -> None:
    for number, name in enumerate((*cifar.TRAINING_FILES, cifar.TEST_FILE)):
        planes = FEW.images[4 * number : 4 * number + 4].transpose(0, 3, 1, 2).reshape(4, -1)
        content = {b"data": planes.copy(), b"labels": FEW.labels[4 * number :][:4].tolist()}
        (tmp_path / name).write_bytes(pickle.dumps(content, 2))
    command = ["--data", str(tmp_path), "--out", str(tmp_path), "--network", "vgg11"]
    training, test = train_images.read_data(train_images.parse(command))
    assert np.array_equal(training.images, FEW.images[:20])
    assert np.array_equal(test.images, FEW.images[20:])
    assert [*training.labels, *test.labels] == FEW.labels.tolist()


def test_a_set_of_fewer_images_than_a_batch() -> None:
    message = "24 images do not fill a batch of 64 [training-set]"
    with pytest.raises(FheCompileError, match=f"^{re.escape(message)}$"):
        train_images.ImageBatches(FEW, 64, torch.Generator())


def test_networks_by_name() -> None:
    sizes = {name: make() for name, make in train_images.NETWORKS.items() if name != "resnet20"}
    assert {name: sum(p.numel() for p in x.parameters()) for name, x in sizes.items()} == {
        "resnet32": 464_154,
        "resnet44": 658_586,
        "resnet56": 853_018,
        "resnet110": 1_727_962,
        "vgg11": 9_228_362,
        "vgg11max": 9_228_362,
    }
    assert any(isinstance(x, torch.nn.MaxPool2d) for x in sizes["vgg11max"].modules())
