"""The torch side of the zoo: the penalty, the same network for the same seed, the export."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

torch = pytest.importorskip("torch", reason="the networks are defined in torch, not installed")

from models.zoo import networks, train, training  # noqa: E402  (after the skip)
from models.zoo.__main__ import main  # noqa: E402
from models.zoo.catalogue import CATALOGUE, names_made_by, shipped_path  # noqa: E402
from models.zoo.samples import load_samples  # noqa: E402

torch.set_num_threads(1)
nn = torch.nn


def test_networks_are_those_of_the_catalogue() -> None:
    assert list(networks.NETWORKS) == names_made_by("torch")


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_shipped_file_has_the_network_s_weights(name: str) -> None:
    """Of the sizes the definition gives: the file was made from this definition."""
    state = networks.NETWORKS[name]().state_dict()
    tensors = [numpy_helper.to_array(t) for t in onnx.load(shipped_path(name)).graph.initializer]
    found = Counter(t.size for t in tensors if t.dtype == np.float32)
    expected = Counter(v.numel() for v in state.values() if v.ndim)
    # The exporter stores equal vectors once, such as the biases that a block adds.
    assert found.keys() == expected.keys()
    assert 0 <= sum((expected - found).values()) <= 1
    assert not found - expected


def test_range_penalty() -> None:
    network = nn.Sequential(nn.ReLU(), nn.Linear(2, 2), nn.SiLU())
    nn.init.eye_(network[1].weight)
    nn.init.zeros_(network[1].bias)
    penalty = training.penalise_ranges(network, limit=2.0)
    network(torch.tensor([[5.0, -3.0], [1.0, 2.0]]))
    # 3^2 and 1^2 of four values into ReLU; ReLU leaves 3^2 into SiLU.
    assert float(penalty.take().detach()) == pytest.approx((9 + 1) / 4 + 9 / 4)
    assert float(penalty.take().detach()) == 0
    penalty.remove()
    network(torch.tensor([[5.0, -3.0]]))
    assert float(penalty.take().detach()) == 0


def test_variance_penalty() -> None:
    network = nn.LayerNorm(2)
    penalty = training.penalise_ranges(network)
    network(torch.tensor([[-1.0, 1.0], [-math.e, math.e], [-0.5 / math.e, 0.5 / math.e]]))
    logarithms = [0.0, 2.0, -2.0 - math.log(4)]
    excess = [max(abs(v) - training.VARIANCE_LIMIT, 0) ** 2 for v in logarithms]
    assert float(penalty.take().detach()) == pytest.approx(np.mean(excess), rel=1e-5)


def test_attention_is_torch_s() -> None:
    torch.manual_seed(0)
    ours, theirs = networks.Attention(16, 2), nn.MultiheadAttention(16, 2, batch_first=True)
    parts = (ours.queries, ours.keys, ours.values)
    theirs.in_proj_weight.data = torch.cat([f.weight for f in parts])
    theirs.in_proj_bias.data = torch.cat([f.bias for f in parts])
    theirs.out_proj.weight, theirs.out_proj.bias = ours.out.weight, ours.out.bias
    x = torch.randn(3, 8, 16)
    torch.testing.assert_close(ours(x), theirs(x, x, x)[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["digits_relu_mlp", "autoencoder", "cnn_1d"])
def test_training_depends_on_the_seed_only(name: str, tmp_path: Path) -> None:
    blobs, measured = [], []
    for number, seed in enumerate((0, 0, 1)):
        torch.rand(7)  # earlier use of the global generator must not matter
        folder = tmp_path / str(number)
        folder.mkdir()
        measured.append(train.train(name, folder, seed, epochs=1))
        blobs.append((folder / f"{name}.onnx").read_bytes())
    assert blobs[0] == blobs[1] != blobs[2]
    assert measured[0] == measured[1] != measured[2]


def test_what_training_reports_is_the_file_s(tmp_path: Path) -> None:
    reported = train.train("cnn_1d", tmp_path, epochs=1)
    session = onnxruntime.InferenceSession(tmp_path / "cnn_1d.onnx")
    samples = load_samples(CATALOGUE["cnn_1d"].samples)
    found = [session.run(None, {"image": x[None]})[0].argmax() for x in samples.test]
    assert np.mean(found == samples.label) == pytest.approx(reported)
    assert 0.3 < reported < 1


def test_train_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "OTHER_EPOCHS", 1)
    assert main(["train", "cnn_1d", "--out", str(tmp_path / "new")]) == 0
    assert capsys.readouterr().out.startswith("cnn_1d.onnx: accuracy 0.")
    assert (tmp_path / "new" / "cnn_1d.onnx").exists()
