"""Training of the face network: its losses by hand, and runs that can be interrupted."""

from __future__ import annotations

import io
import itertools
import math
import re
from argparse import Namespace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

torch = pytest.importorskip("torch", reason="the face network is trained in torch, not installed")

from PIL import Image  # noqa: E402  (after the skip)
from torch.nn import functional  # noqa: E402

from fhecompile.errors import FheCompileError  # noqa: E402
from models import cryptofacenet, train_faces, training  # noqa: E402
from models.faces import evaluation, losses, pair_files, synthetic  # noqa: E402
from runtime.progress import ProgressBar  # noqa: E402

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def test_arcface_moves_the_right_angle_only() -> None:
    loss = losses.ArcFace(3, 2, scale=10.0, margin=0.5)
    angles = torch.tensor([0.3, 1.2, 3.0])
    loss.centres.data = 4 * torch.stack([angles.cos(), angles.sin()], dim=1)
    embeddings = torch.tensor([[2.0, 0.0], [0.5, 0.0], [7.0, 0.0]])
    found = loss.logits(embeddings, torch.tensor([0, 1, 2]))
    expected = 10 * angles.cos().repeat(3, 1)
    expected[0, 0] = 10 * math.cos(0.8)
    expected[1, 1] = 10 * math.cos(1.7)
    expected[2, 2] = 10 * (math.cos(3.0) - 0.5 * math.sin(0.5))  # 3.0 > pi - 0.5
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    value = functional.cross_entropy(expected, torch.tensor([0, 1, 2]))
    torch.testing.assert_close(loss(embeddings, torch.tensor([0, 1, 2])), value)


def test_arcface_falls_with_the_angle_and_has_finite_slopes() -> None:
    loss = losses.ArcFace(2, 2)
    loss.centres.data = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    angle = torch.linspace(0, math.pi, 1001)
    embeddings = torch.stack([angle.cos(), angle.sin()], dim=1).requires_grad_()
    right = loss.logits(embeddings, torch.zeros(1001, dtype=torch.long))[:, 0]
    assert (right.diff() < 0).all()
    right.sum().backward()
    assert embeddings.grad is not None
    assert embeddings.grad.isfinite().all()


@pytest.mark.parametrize(("patches", "count"), [(1, 1), (4, 24), (9, 24), (16, 24)])
def test_permutations(patches: int, count: int) -> None:
    found = losses.choose_permutations(patches)
    assert found.shape == (count, patches)
    assert (np.sort(found, axis=1) == np.arange(patches)).all()
    assert len({tuple(row) for row in found}) == count
    if patches >= 9:
        apart = [(a != b).sum() for a, b in itertools.combinations(found, 2)]
        assert min(apart) >= patches - 2


def test_jigsaw_shuffles_each_image_by_its_permutation() -> None:
    jigsaw = losses.Jigsaw(4, 3)
    features = [torch.full((2, 3), float(p)) for p in range(4)]
    chosen = torch.tensor([0, 23])
    found = jigsaw.shuffle(features, chosen)[:, :, 0]
    assert found.tolist() == jigsaw.permutations[chosen].float().tolist()
    assert found.tolist() == [[0, 1, 2, 3], [3, 2, 1, 0]]


def test_jigsaw_can_be_learnt() -> None:
    # A head that scores a permutation by the one-hot places of the patches always knows it.
    jigsaw = losses.Jigsaw(4, 4)
    jigsaw.head.bias.data.zero_()
    jigsaw.head.weight.data = 50 * functional.one_hot(jigsaw.permutations, 4).float().flatten(1)
    features = [row.repeat(16, 1) for row in torch.eye(4)]
    generator = torch.Generator().manual_seed(0)
    assert jigsaw(features, generator).item() < 1e-6
    same = [torch.eye(4)[0].repeat(16, 1)] * 4
    assert jigsaw(same, generator).item() > 1


def test_peak_penalty_counts_the_largest_value_of_an_image() -> None:
    herpn = cryptofacenet.HerPN(1).eval()  # running mean 0 and variance 1: z = x
    penalty = losses.watch_peaks(herpn)
    x = torch.tensor([[3.0, -9.0, 6.0], [1.0, 2.0, 5.0]]).view(2, 1, 1, 3).requires_grad_()
    with penalty:
        herpn(x)
    expected = (9 / math.sqrt(1 + herpn.bn1.eps) - losses.PEAK) / 2
    assert penalty.total.item() == pytest.approx(expected, abs=1e-6)
    penalty.total.backward()
    assert x.grad is not None
    assert (x.grad != 0).flatten().tolist() == [False, True, False, False, False, False]
    herpn(x)  # unwatched
    assert penalty.total.item() == pytest.approx(expected, abs=1e-6)
    with penalty:
        herpn(torch.zeros(1, 1, 1, 1))
    assert penalty.total.item() == 0


def test_average_statistics_is_the_mean_over_batches() -> None:
    norm = torch.nn.BatchNorm1d(1)
    batches = [torch.tensor([[0.0], [2.0]]), torch.tensor([[10.0], [16.0]])]
    training.average_statistics(norm, iter(batches))
    assert norm.running_mean.tolist() == [7.0]
    assert norm.running_var.tolist() == [10.0]  # of 2 and 18, unbiased
    assert norm.momentum == 0.1


def test_a_resumed_run_gives_the_same_weights(tmp_path: Path) -> None:
    settings = train_faces.Settings(
        size=32, people=4, epochs=3, batch=8, milestones=(2,), mirror=True
    )
    pixels = list(synthetic.draw_people(0, 4, 4, 32))
    images = train_faces.FaceImages(pixels, np.repeat(np.arange(4), 4).tolist(), 32)
    bar = ProgressBar(io.StringIO())

    def run(trainer: train_faces.FaceTrainer, until: int) -> train_faces.FaceTrainer:
        loader = train_faces.make_loader(images, settings, trainer.generator, 0)
        while trainer.epoch < until:
            trainer.run_epoch(loader, bar)
        return trainer

    path = tmp_path / "checkpoint.pt"
    run(train_faces.FaceTrainer(settings, CPU), 1).save(path)
    resumed = train_faces.FaceTrainer(settings, CPU)
    resumed.load(path)
    torch.rand(5)  # the global generator has no part in it
    first, second = run(resumed, 3), run(train_faces.FaceTrainer(settings, CPU), 3)
    assert first.optimiser.param_groups[0]["lr"] == pytest.approx(0.005)
    states = [trainer.modules.state_dict() for trainer in (first, second)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[1])
    start = train_faces.FaceTrainer(settings, CPU).modules.state_dict()
    name = "0.nets.0.conv.weight"
    assert not torch.equal(states[0][name], start[name])


def test_a_failed_save_leaves_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = train_faces.FaceTrainer(train_faces.Settings(size=32, people=4), CPU)
    path = tmp_path / "checkpoint.pt"
    trainer.save(path)
    before = path.read_bytes()

    def fail(_state: object, file: object) -> None:
        file.write(b"half")  # type: ignore[attr-defined]
        raise OSError("the disk is full")

    monkeypatch.setattr(torch, "save", fail)
    trainer.epoch = 1
    with pytest.raises(OSError, match="the disk is full"):
        trainer.save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_checkpoint_of_other_settings(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    train_faces.FaceTrainer(train_faces.Settings(size=32, people=4), CPU).save(path)
    other = train_faces.FaceTrainer(train_faces.Settings(size=32, people=5, epochs=99), CPU)
    message = (
        f"{path}: the checkpoint was trained with people 4, not 5 [checkpoint]\n"
        "  hint: resume with the settings it was started with, or start in another folder"
    )
    with pytest.raises(FheCompileError, match=f"^{re.escape(message)}$"):
        other.load(path)
    path.write_bytes(b"nothing")
    message = f"{path}: this is no checkpoint that can be read [checkpoint]"
    with pytest.raises(FheCompileError, match=f"^{re.escape(message)}$"):
        other.load(path)


def few_pairs(_options: Namespace) -> list[pair_files.FacePairs]:
    return [synthetic.synthetic_pairs(1, 6, 2, 32, 24)]


def test_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(train_faces, "read_test_sets", few_pairs)
    command = ["--data", "synthetic", "--size", "32", "--people", "4", "--images", "8"]
    command += ["--batch", "8", "--out", str(tmp_path / "run")]
    assert train_faces.main([*command, "--epochs", "1"]) == 0
    shown = capsys.readouterr()
    assert re.search(r"^epoch 1: loss [0-9.]+, [0-9]+ s$", shown.out, re.MULTILINE)
    assert "synthetic people of seed 1: 24 pairs, accuracy " in shown.out
    assert shown.out.endswith("wrote cryptofacenet1.onnx\n")
    assert shown.err == ""  # no bar where there is no terminal

    assert train_faces.main([*command, "--epochs", "1"]) == 2
    checkpoint = tmp_path / "run" / "checkpoint.pt"
    assert capsys.readouterr().err == (
        f"{checkpoint}: there is a checkpoint of an earlier run [checkpoint]\n"
        "  hint: go on with --resume, or delete it\n"
    )

    assert train_faces.main([*command, "--epochs", "2", "--resume"]) == 0
    shown = capsys.readouterr()
    assert re.findall(r"^epoch (\d)", shown.out, re.MULTILINE) == ["2"]
    # The figures printed are those of the file that was written.
    pairs = few_pairs(Namespace())[0]
    session = onnxruntime.InferenceSession(str(tmp_path / "run" / "cryptofacenet1.onnx"))
    images = [pixels / np.float32(127.5) - 1 for pixels in (pairs.image(k) for k in range(12))]
    embeddings = np.concatenate(
        [session.run(None, {"image": x.transpose(2, 0, 1)[None]})[0] for x in images]
    )
    scores = evaluation.cosine_scores(embeddings[pairs.pairs[:, 0]], embeddings[pairs.pairs[:, 1]])
    accuracy = evaluation.verify(scores, pairs.same).accuracy
    assert f"24 pairs, accuracy {100 * accuracy:.2f} %" in shown.out


def test_training_lowers_the_loss() -> None:
    settings = train_faces.Settings(size=32, people=3, batch=12, rate=0.005, scale=32.0, margin=0.2)
    pixels = list(synthetic.draw_people(0, 3, 8, 32))
    images = train_faces.FaceImages(pixels, np.repeat(np.arange(3), 8).tolist(), 32)
    trainer = train_faces.FaceTrainer(settings, CPU)
    loader = train_faces.make_loader(images, settings, trainer.generator, 0)
    losses_seen = [trainer.run_epoch(loader, ProgressBar(io.StringIO())) for _ in range(8)]
    assert losses_seen[-1] < 0.5 * losses_seen[0], losses_seen


def test_folder_of_people(tmp_path: Path) -> None:
    for person in range(3):
        folder = tmp_path / f"person {person}"
        folder.mkdir()
        for number, pixels in enumerate(synthetic.draw_images(0, person, range(2), 40)):
            Image.fromarray(pixels).save(folder / f"{number}.png")
    options = train_faces.parse(["--data", str(tmp_path), "--out", str(tmp_path), "--size", "32"])
    images = train_faces.read_training_set(options)
    assert (len(images), images.people) == (6, 3)
    tensor, label = images[5]
    assert (tensor.shape, tensor.dtype, label) == ((3, 32, 32), torch.float32, 2)
    message = "6 images do not fill a batch of 256 [face-folder]"
    with pytest.raises(FheCompileError, match=f"^{re.escape(message)}$"):
        train_faces.make_loader(images, train_faces.Settings(), torch.Generator(), 0)


def test_a_loss_that_is_not_finite_stops_the_run() -> None:
    settings = train_faces.Settings(size=32, people=2, batch=2)
    pixels = list(synthetic.draw_people(0, 2, 1, 32))
    trainer = train_faces.FaceTrainer(settings, CPU)
    trainer.network.linear.bias.data.fill_(math.nan)
    loader = train_faces.make_loader(
        train_faces.FaceImages(pixels, [0, 1], 32), settings, trainer.generator, 0
    )
    message = (
        "the loss of epoch 1 is not finite [training-diverged]\n"
        "  hint: resume with a lower --rate, or look for images unlike the others"
    )
    with pytest.raises(FheCompileError, match=f"^{re.escape(message)}$"):
        trainer.run_epoch(loader, ProgressBar(io.StringIO()))


def test_size_must_be_a_multiple_of_32(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        train_faces.main(["--data", "synthetic", "--out", "x", "--size", "50"])
    assert stop.value.code == 2
    assert "size must be a positive multiple of 32, not 50" in capsys.readouterr().err
