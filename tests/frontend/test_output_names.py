"""Computing chosen values of a model instead of its outputs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

import runtime
from fhecompile.cli import main
from fhecompile.compile import compile
from fhecompile.errors import FheCompileError
from fhecompile.frontend import import_model
from runtime.run import main as run_main
from tests.frontend.conftest import build_bytes, needed, node

WEIGHTS = {"w": np.array([[1.0, -1.0, 0.5], [0.25, 1.0, -0.5]]), "b": np.array([0.5, 0.0, -0.5])}
NODES = [
    node("MatMul", "x w", "product"),
    node("Add", "product b", "scores"),
    node("Mul", "scores scores", "squares"),
    node("Softmax", "scores", "probabilities"),
    node("ArgMax", "probabilities", "label", axis=1),
]


def model(*outputs: str) -> bytes:
    return build_bytes(NODES, {"x": (1, 2)}, WEIGHTS, outputs)


def test_what_only_others_need_is_left_out() -> None:
    graph = import_model(model("label", "probabilities"), outputs=["scores"]).graph
    assert needed(graph) == ["product: affine", "scores: affine"]
    assert [o.label for o in graph.outputs()] == ["scores"]


def test_the_order_is_that_of_the_names() -> None:
    graph = import_model(model("scores", "squares"), outputs=["squares", "product"]).graph
    assert [o.label for o in graph.outputs()] == ["squares", "product"]


def test_the_model_is_left_as_it_is() -> None:
    import onnx
    import onnx_ir

    ours = onnx_ir.serde.deserialize_model(onnx.load_model_from_string(model("scores", "squares")))
    import_model(ours, outputs=["product"])
    assert [v.name for v in ours.graph.outputs] == ["scores", "squares"]


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["score"], "output score is made by no node of the model"),
        (["x"], "output x is made by no node of the model"),
        (["w"], "output w is made by no node of the model"),
        (["scores", "scores"], "output scores is asked for twice"),
    ],
)
def test_names_that_are_none(names: list[str], reason: str) -> None:
    with pytest.raises(FheCompileError) as caught:
        import_model(model("probabilities", "label"), outputs=names)
    assert str(caught.value) == (
        f"model: {reason} [output-name]\n"
        "  hint: the outputs are: probabilities, label; any other value of the model can be named"
    )


AFTER = "take it off the exported model and apply it after decryption, or replace by a polynomial"


def refusal(blob: bytes) -> str:
    with pytest.raises(FheCompileError) as caught:
        import_model(blob)
    return str(caught.value)


def test_an_output_that_could_be_compiled_is_named() -> None:
    nodes = [*NODES[:3], node("ArgMax", "scores", "label", axis=1)]
    assert refusal(build_bytes(nodes, {"x": (1, 2)}, WEIGHTS, ["label", "squares", "scores"])) == (
        "model: 1 node cannot be compiled:\n"
        "  1 x ArgMax: not supported (label) [unsupported-operators]\n"
        f"  hint: ArgMax: {AFTER}\n"
        "        --output-name squares --output-name scores leaves out what cannot be compiled"
    )


def test_what_goes_into_the_last_node_is_named() -> None:
    nodes = [*NODES[:3], node("TopK", "squares k", "label", axis=1)]
    constants = {**WEIGHTS, "k": np.array([1], np.int64)}
    assert refusal(build_bytes(nodes, {"x": (1, 2)}, constants, ["label"])) == (
        "model: 1 node cannot be compiled:\n"
        "  1 x TopK: not supported (label) [unsupported-operators]\n"
        f"  hint: TopK: {AFTER}\n"
        "        --output-name squares leaves out what cannot be compiled"
    )


def test_nothing_is_named_where_the_middle_is_missing() -> None:
    nodes = [node("Floor", "x", "s"), node("Mul", "s s", "m"), node("ArgMax", "m", "y")]
    assert "--output-name" not in refusal(build_bytes(nodes, {"x": (1, 2)}))


def test_a_chosen_constant() -> None:
    nodes = [helper.make_node("Neg", ["b"], ["c"]), node("Add", "x c", "y")]
    blob = build_bytes(nodes, {"x": (1, 3)}, {"b": np.ones(3)})
    with pytest.raises(FheCompileError) as caught:
        import_model(blob, outputs=["c"])
    assert str(caught.value) == (
        "model: output c does not depend on any input [output-not-encrypted]\n"
        "  hint: take this output off the exported model, it is a constant"
    )


def test_compiled_and_run(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(model("probabilities", "label"))
    plan = compile(path, outputs=("scores",), ring_dimension=64, insecure_toy=True)
    x = np.array([[0.25, -0.5]], np.float32)
    found = runtime.run(plan, {"x": x}, "simulate", insecure_toy=True)
    assert list(found) == ["scores"]
    np.testing.assert_allclose(found["scores"], x @ WEIGHTS["w"] + WEIGHTS["b"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("outputs", [("probabilities", "squares", "scores"), ("squares",)])
def test_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], outputs: tuple[str, ...]
) -> None:
    """The reference of a run is the value of that name; squares are as many, and another."""
    path, plan, x = (tmp_path / name for name in ("model.onnx", "m.fheplan", "x.npz"))
    path.write_bytes(model(*outputs))
    toy = ["--insecure-toy", "--ring-dimension", "64"]
    arguments = [str(path), "-o", str(plan), "--output-name", "scores", *toy, "--quiet"]
    assert main(arguments) == 0
    np.savez(x, x=np.array([[0.25, -0.5]], np.float32))
    capsys.readouterr()
    more = ["--mode", "simulate", "--insecure-toy", "--reference", str(path), "--json"]
    assert run_main([str(plan), "--input", str(x), *more]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["max_abs_error"] < 1e-5
