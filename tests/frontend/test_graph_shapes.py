"""The same network in the graphs that different tools write costs the same, and computes the same.

The graphs of tf2onnx are written by hand, as it writes them: channels last, with transposes around
convolutions, sums for biases, factors and sums for batch norms, and shapes computed in the graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import NodeProto

import runtime
from fhecompile.compile import compile
from fhecompile.plan import Plan
from fhecompile.plan.summary import summarise
from tests.frontend.conftest import build_bytes, node

RANDOM = np.random.default_rng(0)
TO_FIRST, TO_LAST = [0, 3, 1, 2], [0, 2, 3, 1]
CHANNELS = (2, 4, 8)
SIDE, CLASSES = 8, 5
KERNELS = [RANDOM.normal(size=(c, b, 3, 3)) / np.sqrt(9 * b) for b, c in ((2, 4), (4, 8))]
BIASES = [RANDOM.normal(size=c) / 4 for c in CHANNELS[1:]]
# scale, shift, mean, variance
NORMS = [
    [RANDOM.uniform(0.5, 1.5, c), RANDOM.normal(size=c) / 4, RANDOM.normal(size=c) / 4,
     RANDOM.uniform(0.5, 1.5, c)]
    for c in CHANNELS[1:]
]  # fmt: skip
DENSE = RANDOM.normal(size=(CLASSES, 8 * 2 * 2)) / 6
DENSE_BIAS = RANDOM.normal(size=CLASSES) / 4
EPSILON = 1e-3
IMAGES = RANDOM.uniform(-1, 1, (8, 2, SIDE, SIDE)).astype(np.float32)

Graph = tuple[list[NodeProto], dict[str, Any], tuple[int, ...]]


def activate(function: str, x: str, y: str) -> list[NodeProto]:
    if function == "square":
        return [node("Mul", f"{x} {x}", y)]
    return [node("Sigmoid", x, f"{y}.sigmoid"), node("Mul", f"{x} {y}.sigmoid", y)]


def direct(function: str) -> Graph:
    """As torch writes it."""
    nodes: list[NodeProto] = []
    constants: dict[str, Any] = {"dense": DENSE, "dense.b": DENSE_BIAS}
    for i, (kernel, bias, norm) in enumerate(zip(KERNELS, BIASES, NORMS, strict=True)):
        constants.update({f"k{i}": kernel, f"b{i}": bias})
        constants.update({f"n{i}.{j}": values for j, values in enumerate(norm)})
        given = f"a{i - 1}" if i else "image"
        nodes += [
            node("Conv", f"{given} k{i} b{i}", f"c{i}", strides=[2, 2], pads=[0, 0, 1, 1]),
            node(
                "BatchNormalization",
                " ".join([f"c{i}", *(f"n{i}.{j}" for j in range(4))]),
                f"m{i}",
                epsilon=EPSILON,
            ),
            *activate(function, f"m{i}", f"a{i}"),
        ]
    nodes += [node("Flatten", "a1", "flat"), node("Gemm", "flat dense dense.b", "y", transB=1)]
    return nodes, constants, (1, 2, SIDE, SIDE)


def as_tf2onnx(function: str, channels_last: bool) -> Graph:
    """As tf2onnx writes it; the input has its channels last or is transposed before."""
    nodes: list[NodeProto] = []
    first = np.arange(DENSE.shape[1]).reshape(8, 2, 2)
    constants: dict[str, Any] = {
        # Dense layers see the channels last, their weights are the other way round.
        "dense": DENSE[:, first.transpose(1, 2, 0).ravel()].T,
        "dense.b": DENSE_BIAS,
        "from": np.array([0]),
        "to": np.array([1]),
        "rest": np.array([-1]),
    }
    given = "image"
    if not channels_last:
        nodes.append(node("Transpose", "image", "last", perm=TO_LAST))
        given = "last"
    for i, (kernel, bias, norm) in enumerate(zip(KERNELS, BIASES, NORMS, strict=True)):
        scale, shift, mean, variance = norm
        factor = scale / np.sqrt(variance + EPSILON)
        constants[f"k{i}"] = kernel.transpose(2, 3, 1, 0)  # rows, columns, in, out
        constants.update({f"b{i}": bias, f"f{i}": factor, f"s{i}": shift - mean * factor})
        nodes += [
            node("Transpose", f"k{i}", f"w{i}", perm=[3, 2, 0, 1]),
            node("Transpose", given, f"x{i}", perm=TO_FIRST),
            node(
                "Conv", f"x{i} w{i}", f"c{i}", strides=[2, 2], auto_pad="SAME_UPPER",
                kernel_shape=[3, 3],
            ),
            node("Transpose", f"c{i}", f"t{i}", perm=TO_LAST),
            node("Add", f"t{i} b{i}", f"d{i}"),
            node("Mul", f"d{i} f{i}", f"e{i}"),
            node("Add", f"e{i} s{i}", f"m{i}"),
            *activate(function, f"m{i}", f"a{i}"),
        ]  # fmt: skip
        given = f"a{i}"
    nodes += [
        node("Shape", "a1", "shape"),
        node("Slice", "shape from to", "batch"),
        node("Concat", "batch rest", "target", axis=0),
        node("Reshape", "a1 target", "flat"),
        node("MatMul", "flat dense", "product"),
        node("Add", "product dense.b", "y"),
    ]
    shape = (1, SIDE, SIDE, 2) if channels_last else (1, 2, SIDE, SIDE)
    return nodes, constants, shape


def compile_graph(graph: Graph, path: Path, images: NDArray[Any]) -> Plan:
    nodes, constants, shape = graph
    path.write_bytes(build_bytes(nodes, {"image": shape}, constants))
    return compile(path, calibration=images, ring_dimension=2048, insecure_toy=True)


def cost(plan: Plan) -> Mapping[str, int]:
    found = summarise(plan)
    names = ("multiplicative_depth", "levels", "rotations", "key_switches", "plaintext_mults")
    return {name: getattr(found, name) for name in (*names, "rotation_keys", "ring_dimension")}


@pytest.mark.parametrize("function", ["square", "silu"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_tf2onnx(function: str, channels_last: bool, tmp_path: Path) -> None:
    one = compile_graph(direct(function), tmp_path / "direct.onnx", IMAGES)
    images = IMAGES.transpose(TO_LAST) if channels_last else IMAGES
    other = compile_graph(as_tf2onnx(function, channels_last), tmp_path / "tf.onnx", images)
    assert cost(other) == cost(one)
    expected = runtime.run(one, {"image": IMAGES}, "clear", insecure_toy=True)["y"]
    found = runtime.run(other, {"image": images}, "clear", insecure_toy=True)["y"]
    assert expected.std(axis=0).min() > 0.02
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


PIXELS, HIDDEN = 16, 12
ROWS = RANDOM.uniform(-1, 1, (200, PIXELS)).astype(np.float32)
CLASS_OF_ROW = np.argmax(ROWS[:, :4] + ROWS[:, 4:8] * ROWS[:, 8:12], axis=1)


def gemms(*layers: tuple[Any, Any], activation: str = "") -> Graph:
    """Layers of weights (in, out) and biases with an activation in between, as torch writes it."""
    nodes, constants, given = [], {}, "features"
    for i, (weight, bias) in enumerate(layers):
        constants.update({f"w{i}": np.transpose(weight), f"b{i}": np.ravel(bias)})
        nodes.append(node("Gemm", f"{given} w{i} b{i}", f"g{i}", transB=1))
        given = f"g{i}"
        if activation and i + 1 < len(layers):
            nodes.append(node(activation, given, f"a{i}"))
            given = f"a{i}"
    nodes[-1].output[0] = "y"
    return nodes, constants, (1, PIXELS)


def compile_rows(model: bytes, path: Path, *outputs: str) -> Plan:
    path.write_bytes(model)
    toy = {"ring_dimension": 2048, "insecure_toy": True}
    return compile(path, calibration=ROWS, outputs=outputs, precision_bits=6, **toy)


def pipelines() -> dict[str, tuple[Any, str]]:
    """Unfitted pipelines, and the name of the scores in what skl2onnx makes of them."""
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import LinearSVC

    mlp = MLPClassifier((HIDDEN,), "tanh", alpha=10.0, random_state=0, max_iter=1000)
    return {
        "logistic": (make_pipeline(StandardScaler(), LogisticRegression()), "probabilities"),
        "svc": (make_pipeline(StandardScaler(), LinearSVC(random_state=0)), "probabilities"),
        "mlp": (make_pipeline(StandardScaler(), PCA(8), mlp), "add_result1"),
    }


def layers_of(pipeline: Any) -> list[tuple[Any, Any]]:
    """The pipeline as layers: what scales and projects is multiplied into the first one."""
    scaler, *projection, classifier = (step for _, step in pipeline.steps)
    before, shift = np.diag(1 / scaler.scale_), -scaler.mean_ / scaler.scale_
    for pca in projection:
        before, shift = before @ pca.components_.T, (shift - pca.mean_) @ pca.components_.T
    if hasattr(classifier, "coefs_"):
        (weight, *others), (bias, *biases) = classifier.coefs_, classifier.intercepts_
        last = list(zip(others, biases, strict=True))
    else:
        weight, bias, last = classifier.coef_.T, classifier.intercept_, []
    return [(before @ weight, shift @ weight + bias), *last]


@pytest.mark.parametrize("name", ["logistic", "svc", "mlp"])
def test_scikit_learn(name: str, tmp_path: Path) -> None:
    skl2onnx = pytest.importorskip("skl2onnx", reason="the exporter of scikit-learn")
    pipeline, scores = pipelines()[name]
    pipeline.fit(ROWS, CLASS_OF_ROW)
    raw = {id(pipeline.steps[-1][1]): {"raw_scores": True} if name == "logistic" else {}}
    rows = skl2onnx.common.data_types.FloatTensorType([1, PIXELS])
    # With a ZipMap behind it, as is usual: the scores are cut out.
    model = skl2onnx.to_onnx(pipeline, initial_types=[("features", rows)], options=raw)
    other = compile_rows(model.SerializeToString(), tmp_path / "skl.onnx", scores)
    nodes, constants, shape = gemms(*layers_of(pipeline), activation="Tanh")
    one = compile_rows(build_bytes(nodes, {"features": shape}, constants), tmp_path / "direct.onnx")
    assert cost(other) == cost(one)
    assert one.program.prediction.multiplicative_depth >= (4 if name == "mlp" else 1)
    (found,) = runtime.run(other, {"features": ROWS[:50]}, "clear", insecure_toy=True).values()
    (expected,) = runtime.run(one, {"features": ROWS[:50]}, "clear", insecure_toy=True).values()
    assert expected.std(axis=0).min() > 0.1
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-3)
    assert np.array_equal(found.argmax(axis=1), pipeline.predict(ROWS[:50]))
