"""ResNet, VGG-11 and LeNet-5: as published, exported as they are, and what compiles."""

from __future__ import annotations

import functools
import itertools
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

import runtime
from fhecompile.compile import compile
from fhecompile.errors import FheCompileError
from fhecompile.frontend import import_model
from fhecompile.ir.evaluate import evaluate

if TYPE_CHECKING:
    from torch import nn

    from fhecompile.plan import Plan
    from models.activations import Activation

torch = pytest.importorskip("torch", reason="the networks are defined in torch, not installed")

from models import activations, cryptofacenet, lenet, resnet, torch_export, vgg  # noqa: E402

torch.set_num_threads(1)
NETWORKS = [
    *[("lenet-28", activation) for activation in activations.ACTIVATIONS],
    *[("lenet-32", activation) for activation in activations.ACTIVATIONS],
    *[("resnet-20", activation) for activation in activations.ACTIVATIONS],
    ("resnet-32", "square"),  # others differ in nothing else, and take seconds
    ("vgg-average", "relu"),
    ("vgg-max", "relu"),
]


@functools.cache
def build(name: str, activation: Activation, seed: int = 0) -> nn.Module:
    family, _, number = name.partition("-")
    if family == "lenet":
        return lenet.build_random(activation, int(number), seed)
    if family == "vgg":
        return vgg.build_random(number, seed)
    return resnet.build_random(int(number), activation, seed)


def images(name: str, seed: int = 1000) -> NDArray[np.float32]:
    """Eight smooth images that no network was made with, in [-1, 1]."""
    size, channels = (int(name[-2:]), 1) if name.startswith("lenet") else (32, 3)
    smooth = cryptofacenet.smooth_images(8, size, torch.Generator().manual_seed(seed))
    return smooth[:, :channels].numpy()


def logits(network: nn.Module, x: NDArray[np.float32]) -> NDArray[np.float32]:
    with torch.no_grad():
        return network(torch.from_numpy(x)).numpy()


# He et al., table 6, says 0.27, 0.46, 0.66, 0.85 and 1.7 M; LeNet-5's is the literature's number.
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("lenet-28", 61_706),
        ("lenet-32", 61_706),
        ("resnet-20", 269_722),
        ("resnet-32", 464_154),
        ("resnet-44", 658_586),
        ("resnet-56", 853_018),
        ("resnet-110", 1_727_962),
    ],
)
@pytest.mark.parametrize("activation", activations.ACTIVATIONS)
def test_parameters(name: str, expected: int, activation: Activation) -> None:
    number = int(name.partition("-")[2])
    # LeNet-5 has no batch norms whose parameters HerPN's could replace.
    more = 2 * (6 + 16 + 120 + 84) if (name[:5], activation) == ("lenet", "herpn") else 0
    make = lenet.LeNet5 if name.startswith("lenet") else resnet.ResNet
    network = make(
        **{"size" if make is lenet.LeNet5 else "depth": number, "activation": activation}
    )
    assert sum(p.numel() for p in network.parameters()) == expected + more


def test_layers_of_resnet() -> None:
    """6 n + 2 layers with weights; an activation and a normalisation behind all but the last."""
    for depth in resnet.DEPTHS:
        for activation in activations.ACTIVATIONS:
            modules = list(resnet.ResNet(depth, activation).modules())

            def found(*kinds: type, among: list[nn.Module] = modules) -> int:
                return sum(isinstance(m, kinds) for m in among)

            assert found(torch.nn.Conv2d, torch.nn.Linear) == depth
            active = found(torch.nn.ReLU, activations.Square, cryptofacenet.HerPN)
            assert active == depth - 1
            norms = found(torch.nn.BatchNorm2d)
            assert norms == (depth - 1) * (3 if activation == "herpn" else 1)


def test_layers_of_vgg() -> None:
    """Eight convolutions and a linear layer; their parameters by hand."""
    widths = [3, 64, 128, 256, 256, 512, 512, 512, 512]
    weights = sum(9 * a * b + 2 * b for a, b in itertools.pairwise(widths)) + 512 * 10 + 10
    x = torch.zeros(2, 3, 32, 32)
    for pool, kind in (("average", torch.nn.AvgPool2d), ("max", torch.nn.MaxPool2d)):
        network = vgg.VGG11(pool)
        modules = list(network.modules())
        assert sum(p.numel() for p in network.parameters()) == weights == 9_228_362
        assert sum(isinstance(m, (torch.nn.Conv2d, torch.nn.Linear)) for m in modules) == 9
        assert sum(isinstance(m, torch.nn.ReLU) for m in modules) == 8
        assert sum(isinstance(m, kind) for m in modules) == 5
        assert network.eval()(x).shape == (2, 10)


def test_shortcut_keeps_and_appends_zeros() -> None:
    x = torch.randn(2, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    y = resnet.Subsample(16, 32, 2)(x)
    assert y.shape == (2, 32, 4, 4)
    assert torch.equal(y[:, :16], x[:, :, ::2, ::2])
    assert not y[:, 16:].any()


@pytest.mark.parametrize(("name", "activation"), NETWORKS)
def test_export_and_import_agree_with_torch(
    name: str, activation: Activation, tmp_path: Path
) -> None:
    network, x = build(name, activation), images(name)
    expected = logits(network, x)
    assert expected.shape == (8, 10)
    scale = np.abs(expected).max()
    assert expected.std(axis=0).mean() > 1e-3 * scale  # not a constant, to a hundred tolerances
    path = tmp_path / "network.onnx"
    torch_export.export_onnx(network, torch.zeros(1, *x.shape[1:]), path, "logits")
    session = onnxruntime.InferenceSession(str(path))
    (image,), (output,) = session.get_inputs(), session.get_outputs()
    assert (image.name, image.shape) == ("image", [1, *x.shape[1:]])
    assert (output.name, output.shape) == ("logits", [1, 10])
    found = [session.run(None, {"image": sample[None]})[0] for sample in x]
    np.testing.assert_allclose(np.concatenate(found), expected, rtol=0, atol=1e-5 * scale)
    graph = import_model(path).graph
    exact = evaluate(graph, {"image": x[:1, None].astype(np.float64)})["logits"]
    np.testing.assert_allclose(exact[:, 0], expected[:1], rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize(("name", "activation"), NETWORKS)
def test_values_stay_bounded(name: str, activation: Activation) -> None:
    network, shape = build(name, activation), images(name).shape
    generator = torch.Generator().manual_seed(2000)
    noise = 2 * torch.rand(shape, generator=generator) - 1
    grey = torch.linspace(-1, 1, 5).view(5, 1, 1, 1).expand(-1, *shape[1:])
    for x in (torch.from_numpy(images(name)), noise, grey):
        assert torch_export.find_peak_value(network, x) < 100


def test_same_seed_same_network() -> None:
    x = images("lenet-32")
    before = torch.get_rng_state()
    first, again, other = (logits(build("lenet-32", "square", seed), x) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(first, again)
    assert not np.allclose(first, other)


def calibration() -> NDArray[np.float32]:
    various = cryptofacenet.calibration_images(32, torch.Generator().manual_seed(1))
    return various[:, :1].numpy()


def compile_lenet(
    activation: Activation, path: Path, every: int = 1, **options: float | str
) -> Plan:
    """Calibrated on every so-manieth sample."""
    return compile(
        path / f"{activation}.onnx",
        calibration=calibration()[::every],
        ring_dimension=4096,
        insecure_toy=True,
        **options,
    )


def export_lenet(activation: Activation, path: Path) -> nn.Module:
    network = build("lenet-32", activation)
    torch_export.export_onnx(
        network, torch.zeros(1, 1, 32, 32), path / f"{activation}.onnx", "logits"
    )
    return network


@pytest.mark.parametrize("activation", ["square", "herpn"])
def test_polynomial_lenet_compiles(activation: Activation, tmp_path: Path) -> None:
    """Five linear layers and four quadratics."""
    network, x = export_lenet(activation, tmp_path), images("lenet-32")
    plan = compile_lenet(activation, tmp_path)
    prediction = plan.program.prediction
    assert prediction.multiplicative_depth == 9
    found = runtime.run(plan, {"image": x}, "simulate", insecure_toy=True)["logits"]
    error = np.abs(found - logits(network, x)).max()
    assert error < 2.0**-10 * prediction.output_range


def test_relu_lenet_is_refused_where_the_degree_is_limited(tmp_path: Path) -> None:
    """No polynomial of low degree is relu to 8 bits."""
    export_lenet("relu", tmp_path)
    with pytest.raises(FheCompileError) as caught:
        compile_lenet("relu", tmp_path, passes="+fit_functions{degree=7}")
    number, relu = r"-?\d+(\.\d+)?", r"/features/features\.\d/Relu"
    assert re.fullmatch(
        rf"{relu}: with a polynomial of degree [4-7] for relu on {number} to {number} the outputs "
        rf"change by {number}, for {relu} by {number}, for {relu} by {number}, for all 4 functions "
        rf"by {number}; allowed is {number}, 0\.75 of 2\^-8 of outputs up to {number} "
        r"\[precision-not-reachable\]\n  hint: calibrate with data like those of use: a narrower "
        r"range needs less degree, or allow what degree is needed with --passes "
        r"'\+fit_functions\{degree=0\}', or lower --precision-bits to 2, or allow it with "
        rf"--activation-error {number}, or replace it by a polynomial activation and fine-tune",
        str(caught.value),
    )


@pytest.mark.filterwarnings("ignore:output logits reaches")  # an error of 2 bits may
@pytest.mark.parametrize(("bits", "passes"), [(2, ""), (5, "")])
def test_relu_lenet_keeps_the_promise_that_the_refusal_names(
    bits: int, passes: str, tmp_path: Path
) -> None:
    network, x = export_lenet("relu", tmp_path), calibration()[::4]
    plan = compile_lenet("relu", tmp_path, 4, precision_bits=bits, passes=passes)
    prediction, expected = plan.program.prediction, logits(network, x)
    assert prediction.output_range == pytest.approx(np.abs(expected).max(), rel=1e-5)
    assert prediction.largest_error <= prediction.allowed_error
    assert prediction.allowed_error == pytest.approx(2.0**-bits * prediction.output_range)
    found = runtime.run(plan, {"image": x}, "clear", insecure_toy=True)["logits"]
    error = np.abs(found - expected).max(axis=1)
    assert error.max() == pytest.approx(prediction.fitted_error, rel=1e-3)
    worst = int(np.argmax(error))
    found = runtime.run(plan, {"image": x[worst]}, "simulate", insecure_toy=True)["logits"]
    assert np.abs(found - expected[worst]).max() <= prediction.allowed_error


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: resnet.ResNet(21), "depth must be 6 n + 2 with a positive n, not 21"),
        (lambda: resnet.ResNet(2), "depth must be 6 n + 2 with a positive n, not 2"),
        (lambda: vgg.VGG11("min"), "pool must be average or max, not min"),
        (lambda: lenet.LeNet5(size=30), "size must be 28 or 32, not 30"),
        (
            lambda: activations.make_activation("gelu", 1),
            "there is no activation gelu, only relu, herpn, square",
        ),
    ],
)
def test_networks_that_are_none(make, text: str) -> None:
    with pytest.raises(ValueError) as caught:
        make()
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("main", "arguments", "text"),
    [
        (lenet.main, ["--activation", "square"], "square, 32, 61706 parameters"),
        (lenet.main, ["--size", "28"], "relu, 28, 61706 parameters"),
        (resnet.main, ["--activation", "herpn"], "20, herpn, 269722 parameters"),
        (resnet.main, ["--depth", "32"], "32, relu, 464154 parameters"),
        (vgg.main, ["--pool", "max"], "max, 9228362 parameters"),
    ],
)
def test_export_command(main, arguments, text, tmp_path: Path, capsys) -> None:
    path = tmp_path / "network.onnx"
    assert main(["export", *arguments, "--out", str(path)]) == 0
    assert capsys.readouterr().out == f"network.onnx: {text}\n"
    onnxruntime.InferenceSession(str(path))
    with pytest.raises(SystemExit) as leaving:
        main(["export", arguments[0], "gelu", "--out", str(path)])
    assert leaving.value.code == 2
