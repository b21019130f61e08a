"""Adaptation: what is replaced by what, what it starts from, and that fine-tuning keeps ranges."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="adaptation is of torch networks, not installed")

import runtime  # noqa: E402  (after the skip)
from fhecompile.compile import compile  # noqa: E402
from models import adapt, adapt_digits, torch_export  # noqa: E402

torch.set_num_threads(1)
nn, functional = torch.nn, torch.nn.functional
RANDOM = np.random.default_rng(0)
LABELS = RANDOM.integers(0, 2, 200)
# A class has its own upper half.
IMAGES = RANDOM.uniform(-1, 1, (200, 1, 6, 6)).astype(np.float32)
IMAGES[:, 0, :3] += 0.4 * (2 * LABELS[:, None, None] - 1)
X = torch.from_numpy(IMAGES)


class Written(nn.Module):
    """Activations in every way of writing them, one module twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3)
        self.relu = nn.ReLU(inplace=True)
        self.linear = nn.Linear(16, 2)

    def forward(self, x):
        x = self.relu(self.first(x))
        x = functional.silu(self.relu(self.second(x)), inplace=True)
        return self.linear(torch.sigmoid(functional.leaky_relu(x, 0.2)).flatten(1).tanh())


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    layers = [nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 2)]
    return nn.Sequential(*layers).eval()


def polynomials(module: nn.Module) -> list[nn.Module]:
    return [m for m in module.modules() if isinstance(m, adapt.RangedPolynomial)]


def test_every_way_of_writing_an_activation() -> None:
    torch.manual_seed(0)
    original = Written().eval()
    for parameter in original.parameters():
        parameter.data *= 3
    expected = original(X)
    adapted = adapt.replace(original, IMAGES, degree=9)
    assert len(polynomials(adapted)) == 6
    assert not any(isinstance(m, nn.ReLU) for m in adapted.modules())
    assert torch.equal(original(X), expected)  # as it was
    kinds = {(n.op, str(n.target)) for n in adapted.graph.nodes if n.op.startswith("call")}
    assert {target for op, target in kinds if op != "call_module"} == {"flatten"}
    assert (adapted(X) - expected).square().mean(0).max().sqrt() < 0.3 * expected.std(0).min()


def test_a_polynomial_starts_as_the_fit_of_the_function() -> None:
    class Square(nn.SiLU):
        def forward(self, x):
            return 0.5 * x * x - x + 2

    values = torch.from_numpy(RANDOM.uniform(-3, 5, (40, 3, 2)))
    polynomial = adapt._fit_polynomial(Square(), values, 2).double()
    assert [tuple(a.shape) for a in polynomial.coefficients] == [(3, 1)] * 3
    torch.testing.assert_close(polynomial(values), Square()(values), rtol=0, atol=1e-5)


@pytest.mark.parametrize("degree", [2, 3, 5])
def test_a_polynomial_is_one(degree: int) -> None:
    coefficients = RANDOM.normal(size=degree + 1)
    polynomial = adapt.RangedPolynomial(coefficients, -1.0, 3.0, channels=2, axes=0)
    x = torch.linspace(-2, 4, 20)[:, None].expand(-1, 2)
    expected = np.polynomial.polynomial.polyval((x.numpy() - 1) / 2, coefficients)
    np.testing.assert_allclose(polynomial(x).detach().numpy(), expected, rtol=1e-4, atol=1e-4)


def test_herpn_starts_as_the_fit_of_the_function() -> None:
    """What is left is orthogonal to the Hermite sum and has no mean, in every channel."""
    values = 2 * torch.randn(50, 3, 4, 4, generator=torch.Generator().manual_seed(0)) + 1
    module = adapt._make("herpn", functional.relu, values, 2)
    with torch.no_grad():
        difference = (module(values) - functional.relu(values)).double()
        hermite = (module(values) - module.bias).double()
    assert difference.mean((0, 2, 3)).abs().max() < 1e-4
    assert (difference * hermite).mean((0, 2, 3)).abs().max() < 1e-4
    assert difference.square().mean().sqrt() < 0.25 * functional.relu(values).std()


@pytest.mark.parametrize(
    "pool",
    [
        nn.MaxPool2d(2),
        nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True),
        lambda x: functional.max_pool2d(x, 3, 1, padding=1),
    ],
)
def test_max_pools(pool) -> None:
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pool, self.relu = pool, nn.ReLU()

        def forward(self, x):
            return self.pool(self.relu(x))

    adapted = adapt.replace(Pooled(), IMAGES)
    (polynomial,) = polynomials(adapted)
    maximum = pool(torch.zeros_like(X))
    found = adapted(X)
    assert found.shape == maximum.shape
    values = polynomial(X)
    inner = found[:, :, 1, 1]
    if isinstance(pool, nn.MaxPool2d) and pool.kernel_size == 2:
        torch.testing.assert_close(inner, values[:, :, 2:4, 2:4].mean((2, 3)))
    elif isinstance(pool, nn.MaxPool2d):
        torch.testing.assert_close(inner, values[:, :, 1:4, 1:4].mean((2, 3)))
    else:  # padding does not count
        torch.testing.assert_close(found[:, :, 0, 0], values[:, :, :2, :2].mean((2, 3)))


def test_the_penalty_is_what_leaves_the_range() -> None:
    polynomial = adapt.RangedPolynomial([0.0, 1.0, 0.0], -2.0, 2.0, channels=2, axes=0)
    polynomial.train()
    polynomial(torch.tensor([[4.0, 1.0], [-3.0, 2.0]]))
    assert float(polynomial.excess) == pytest.approx((1 + 0.25) / 4)
    module = adapt.RangedHerPN(1).train()
    values = torch.zeros(1, 1, 10, 10)
    values[0, 0, 0, 0] = 100.0  # 9.9 standard deviations off
    module(values)
    t = (100 - 1) / float(values.std()) / adapt.HERPN_RANGE
    assert float(module.excess) == pytest.approx((t - 1) ** 2 / 100, rel=1e-3)


@pytest.mark.parametrize("replacement", ["polynomial", "herpn"])
def test_fine_tuning(replacement: adapt.Replacement) -> None:
    original = network()
    before = {k: v.clone() for k, v in original.state_dict().items()}
    options = {"replacement": replacement, "epochs": 8, "rate": 1e-2}
    adapted, again = (adapt.adapt(original, IMAGES, LABELS, **options) for _ in range(2))
    other = adapt.adapt(original, IMAGES, LABELS, **options, seed=1)
    with torch.no_grad():
        assert torch.equal(adapted(X), again(X))
        assert not torch.equal(adapted(X), other(X))
        assert (adapted(X).argmax(1).numpy() == LABELS).mean() > 0.9
        assert (original(X).argmax(1).numpy() == LABELS).mean() < 0.7
    assert all(torch.equal(v, before[k]) for k, v in original.state_dict().items())


def test_without_labels_the_original_is_followed() -> None:
    original = network()
    start = adapt.replace(original, IMAGES).eval()
    adapted = adapt.adapt(original, IMAGES, epochs=30, rate=1e-2)
    with torch.no_grad():
        first, last = (functional.mse_loss(m(X), original(X)) for m in (start, adapted))
    assert last < 0.3 * first


@pytest.mark.parametrize("replacement", ["polynomial", "herpn"])
def test_depth_is_two_per_layer(replacement: adapt.Replacement, tmp_path: Path) -> None:
    adapted = adapt.adapt(network(), IMAGES, LABELS, replacement=replacement, epochs=1)
    path = tmp_path / "adapted.onnx"
    torch_export.export_onnx(adapted, X[:1], path, "logits")
    plan = compile(path, calibration=IMAGES, ring_dimension=2048, insecure_toy=True)
    assert plan.program.prediction.multiplicative_depth == 3  # convolution, polynomial, linear
    found = runtime.run(plan, {"image": IMAGES[:4]}, "simulate", insecure_toy=True)["logits"]
    with torch.no_grad():
        expected = adapted(X[:4]).numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=2.0**-12)


class Branching(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize(
    ("module", "options", "text"),
    [
        (nn.Flatten(), {}, "the network has no activation to replace"),
        (nn.ReLU(), {"degree": 1}, "degree must be at least 2, not 1"),
        (
            nn.Sequential(nn.Flatten(), nn.ReLU()),
            {"replacement": "herpn"},
            "HerPN is for 4 axes, values have 2: use polynomial",
        ),
        (
            nn.ReLU(),
            {"replacement": "square"},
            "there is no replacement square, only polynomial, herpn",
        ),
        (
            nn.Sequential(nn.Flatten(0), nn.ReLU()),
            {},
            "values of shape (7200,) have no channels",
        ),
        (
            nn.Sequential(nn.MaxPool2d(2, dilation=2), nn.ReLU()),
            {},
            "_0: a dilated max pool has no average pool like it",
        ),
    ],
)
def test_what_cannot_be_adapted(module: nn.Module, options, text: str) -> None:
    with pytest.raises(ValueError) as caught:
        adapt.replace(module, IMAGES, **options)
    assert str(caught.value) == text


def test_what_cannot_be_traced() -> None:
    with pytest.raises(ValueError, match=r"^the network cannot be traced: symbolically traced"):
        adapt.replace(Branching(), IMAGES)


def test_digits(tmp_path: Path) -> None:
    found = adapt_digits.adapt_digits("relu_cnn", tmp_path, epochs=2, tuning_epochs=2)
    assert list(found) == ["relu_cnn", "relu_cnn_polynomial", "relu_cnn_herpn"]
    assert all((tmp_path / f"{stem}.onnx").exists() for stem in found)
    assert min(found.values()) > 0.9
