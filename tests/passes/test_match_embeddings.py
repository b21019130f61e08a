"""One score of two samples: what it is, and that nothing else comes out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import runtime
from fhecompile.compile import compile
from fhecompile.errors import FheCompileError
from fhecompile.ir.evaluate import evaluate, walk
from fhecompile.ir.tensor import Function, TensorGraph
from fhecompile.ir.tensor_rules import verify
from fhecompile.plan import Plan
from passes.infer_ranges import Calibration
from passes.match_embeddings import MatchEmbeddings
from runtime.client import Client
from runtime.server import Server
from tests.graphs import matrix
from tests.support import Network, random_inputs, run_pass

TOY = {"ring_dimension": 512, "insecure_toy": True}
FloatArray = NDArray[np.float64]


def embeddings(unit: bool = False) -> Network:
    """Embeddings of 6 numbers; of length 1 if `unit`."""
    random = np.random.default_rng(3)
    net = Network(x=(1, 2, 4, 4))
    x = net.op("Conv", "x", random.normal(size=(3, 2, 3, 3)), random.normal(size=3), pads=[1] * 4)
    x = net.op("Mul", x, x)
    x = net.op("Gemm", net.op("Flatten", x), matrix(48, 6), np.full(6, 3.0), name="y")
    if unit:
        length = net.op("Sqrt", net.op("ReduceSum", net.op("Mul", x, x), np.array([1])))
        net.op("Div", x, length, name="unit")
    return net


def samples(count: int, seed: int = 0) -> FloatArray:
    return random_inputs(embeddings().graph("y"), samples=count, seed=seed)["x"]


def scores(pairs: FloatArray, match: str) -> FloatArray:
    """What is to come out of pairs (n, 2, *shape), in float64, without a threshold."""
    graph = embeddings().graph("y")
    one, other = (evaluate(graph, {"x": pairs[:, k]})["y"][:, 0] for k in range(2))
    if match == "distance":
        return np.asarray(np.sum((one - other) ** 2, axis=1))
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return np.asarray(np.sum(one * other, axis=1) / lengths)


def paired(network: Network, output: str, **options: Any) -> TensorGraph:
    graph = network.graph(output)
    result = run_pass(MatchEmbeddings(), graph, Calibration({"x": samples(5)}), **options)
    verify(result.program.graph)
    assert result.program.facts[Calibration].inputs["x"].shape == (5, 2, 1, 2, 4, 4)
    return result.program.graph


@pytest.mark.parametrize("match", ["cosine", "distance"])
@pytest.mark.parametrize("threshold", [0.0, 0.25])
def test_the_score(match: str, threshold: float) -> None:
    after = paired(embeddings(), "y", match=match, threshold=threshold)
    assert {n.op for n in after if isinstance(n, Function)} == (
        {"function"} if match == "cosine" else set()
    )
    pairs = samples(8, seed=1).reshape(4, 2, 1, 2, 4, 4)
    found = evaluate(after, {"x": pairs})["score"]
    assert found.shape == (4, 1)
    assert np.allclose(found[:, 0], scores(pairs, match) - threshold, rtol=1e-12, atol=1e-12)


def test_lengths_that_are_one_are_left_alone() -> None:
    network = embeddings(unit=True)
    after = paired(network, "unit", match="cosine")
    # The network's own, for both samples; the score adds none.
    assert [n.name for n in after if isinstance(n, Function)] == ["unit.inverse.each6"]
    pairs = samples(8, seed=1).reshape(4, 2, 1, 2, 4, 4)
    found = evaluate(after, {"x": pairs})["score"][:, 0]
    assert np.allclose(found, scores(pairs, "cosine"), rtol=1e-12, atol=1e-12)


def test_the_first_pair_is_of_equal_samples() -> None:
    given = samples(3)
    result = run_pass(
        MatchEmbeddings(), embeddings().graph("y"), Calibration({"x": given}), match="distance"
    )
    pairs = result.program.facts[Calibration].inputs["x"]
    assert np.array_equal(pairs[0], given[[0, 0]])
    assert np.array_equal(pairs[1:], np.stack([given[:2], given[1:]], axis=1))


def test_without_match_nothing_changes() -> None:
    graph = embeddings().graph("y")
    result = run_pass(MatchEmbeddings(), graph, Calibration({"x": samples(2)}))
    assert not result.modified and result.program.graph is graph


def test_two_outputs_are_refused() -> None:
    network = embeddings()
    network.op("Gemm", network.op("Flatten", "x"), matrix(32, 2), name="z")
    with pytest.raises(FheCompileError) as caught:
        run_pass(
            MatchEmbeddings(),
            network.graph("y", "z"),
            Calibration({"x": samples(2)}),
            match="cosine",
        )
    assert str(caught.value) == (
        "y, z: matching needs a model with one output, this one has 2 [match-outputs]\n"
        "  hint: export the embedding alone"
    )


@pytest.mark.parametrize("unit", [False, True])
def test_a_template_is_of_length_one(unit: bool) -> None:
    network = embeddings(unit)
    graph = network.graph("unit" if unit else "y")
    calibration = Calibration({"x": samples(5)})
    after = run_pass(MatchEmbeddings(), graph, calibration, match="gallery").program.graph
    assert [o.label for o in after.outputs()] == ["template"]
    assert len([n for n in after if isinstance(n, Function)]) == 1  # the network's or ours
    x = samples(3, seed=2)
    e = evaluate(embeddings().graph("y"), {"x": x})["y"]
    found = evaluate(after, {"x": x})["template"]
    expected = e / np.linalg.norm(e, axis=-1, keepdims=True)
    assert np.allclose(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [0.05, 1.0, 300.0])
@pytest.mark.parametrize("match", ["cosine", "gallery"])
def test_long_and_short_embeddings_are_compared_at_length_about_one(
    match: str, size: float
) -> None:
    """Beside values far from one the noise of ciphertexts is large."""
    network = embeddings()
    graph = network.graph(network.op("Mul", "y", np.float32(size)))
    after = run_pass(MatchEmbeddings(), graph, Calibration({"x": samples(5)}), match=match).program
    inputs = after.facts[Calibration].inputs
    for node, value in walk(after.graph, inputs):
        if isinstance(node, Function):
            assert value.min() > 0.5 and value.max() < 2.0
        if node.name.endswith(".length"):
            assert value.min() > 0.25 and value.max() < 4.0


def test_a_template_is_a_vector() -> None:
    network = Network(x=(1, 2, 4, 4))
    network.op("Conv", "x", np.ones((3, 2, 3, 3)), pads=[1] * 4, name="y")
    with pytest.raises(FheCompileError) as caught:
        calibration = Calibration({"x": samples(2)})
        run_pass(MatchEmbeddings(), network.graph("y"), calibration, match="gallery")
    assert str(caught.value) == (
        "a template is a vector, the output y has the shape 1 x 3 x 4 x 4 [match-outputs]\n"
        "  hint: export an embedding with one axis longer than 1"
    )


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"match": "dot"},
            "match is dot, allowed are cosine, distance and gallery [option-value]",
        ),
        (
            {"match": "cosine", "threshold": float("nan")},
            "threshold is nan, allowed are finite numbers [option-value]",
        ),
        (
            {"threshold": 0.5, "match": "gallery"},
            "threshold is given without pairs to match, there is nothing to subtract it from "
            "[option-value]",
        ),
        (
            {"batch": 2, "match": "gallery"},
            "batch is 2, but a gallery's templates are made one at a time [option-value]",
        ),
    ],
)
def test_options_that_cannot_be(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(FheCompileError) as caught:
        compile("x.onnx", **changes)
    assert str(caught.value) == text


@pytest.fixture(scope="module", params=["cosine", "distance"])
def plan(request: pytest.FixtureRequest) -> tuple[str, Plan]:
    model: Any = embeddings().model("y")
    near = samples(12) * 0.1 + samples(1)  # embeddings whose lengths differ by little
    made = compile(model, calibration=near, match=request.param, threshold=0.5, **TOY)
    return request.param, made


@pytest.mark.parametrize("mode", ["clear", "simulate", "encrypt"])
def test_a_plan_of_pairs(plan: tuple[str, Plan], mode: runtime.Mode) -> None:
    match, made = plan
    assert made.program.inputs[0].shape == (2, 1, 2, 4, 4)
    pairs = (samples(6, seed=4) * 0.1 + samples(1)).reshape(3, 2, 1, 2, 4, 4)
    found = runtime.run(made, pairs, mode, insecure_toy=True)["score"]
    error = 2.0**-8 * made.program.prediction.output_range
    assert found.shape == (3,)
    assert np.allclose(found, scores(pairs, match) - 0.5, rtol=0, atol=error)


def test_every_decrypted_slot_is_the_score(plan: tuple[str, Plan]) -> None:
    """Nothing of the embeddings is left beside it."""
    match, made = plan
    pairs = (samples(2, seed=4) * 0.1 + samples(1)).reshape(1, 2, 1, 2, 4, 4)
    client, context = Client.create(made)
    server = Server(made, context, threads=1)
    outputs, _ = server.evaluate(client.encrypt({0: pairs}))
    scale = {key: made.types[n].scale for n, key in _outputs(made).items()}
    (key,) = outputs
    slots = client.secret.decrypt(outputs[key], scale[key])
    server.close()
    expected = scores(pairs, match)[0] - 0.5
    error = 2.0**-8 * made.program.prediction.output_range
    assert slots.shape == (made.parameters.slots,)
    assert np.allclose(slots, expected, rtol=0, atol=error)


def _outputs(made: Plan) -> dict[int, tuple[int, int]]:
    return {
        number: (info.attributes["tensor"], info.attributes["part"])
        for number, info in enumerate(made.program.operations)
        if info.op == "output"
    }
