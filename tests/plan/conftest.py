"""A compiled plan, and a written-out one whose numbers the tests can name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, save

from fhecompile.compile import compile
from fhecompile.errors import FheCompileError
from fhecompile.options import CompileOptions
from fhecompile.plan import Plan
from fhecompile.plan.container import encode_container
from fhecompile.plan.schema import FORMAT_VERSION

Fields = dict[str, Any]
Arrays = dict[str, NDArray[Any]]
Refusal = Callable[[Fields | bytes, Arrays], str]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """A convolution, a square and a dense layer on an 8 x 8 image, in a toy ring."""
    random = np.random.default_rng(0)
    constants = {
        "kernel": random.normal(0, 0.3, (2, 1, 3, 3)),
        "offset": random.normal(0, 0.1, 2),
        "weight": random.normal(0, 0.1, (3, 72)),
        "bias": random.normal(0, 0.1, 3),
    }
    nodes = [
        helper.make_node("Conv", ["image", "kernel", "offset"], ["features"], name="conv"),
        helper.make_node("Mul", ["features", "features"], ["squares"], name="square"),
        helper.make_node("Flatten", ["squares"], ["flat"], name="flatten"),
        helper.make_node("Gemm", ["flat", "weight", "bias"], ["logits"], name="gemm", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 3])],
        [numpy_helper.from_array(v.astype(np.float32), n) for n, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = tmp_path_factory.mktemp("models") / "tiny.onnx"
    save(model, str(path))
    return compile(path, options=CompileOptions(insecure_toy=True, ring_dimension=1024))


@pytest.fixture(scope="session")
def tiny_file(tiny: Plan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plans") / "tiny.fheplan"
    tiny.save(path)
    return path


@pytest.fixture
def written() -> tuple[Fields, Arrays]:
    """A small valid program as JSON fields, with its arrays; it computes nothing useful."""
    arrays: Arrays = {
        "weights": np.arange(16.0).reshape(4, 4),
        "rows": np.arange(4, dtype=np.int32)[:, None],
        "columns": np.arange(4, dtype=np.int32)[None, :],
        "diagonals": np.array([[0, 0, y] for y in range(4)], np.int32),
        "bias": np.ones((1, 4)),
    }
    ends = {"shape": [1, 4], "low": -1.0, "high": 1.0}
    counts = {"low": 0.0, "high": 1.0, "multiply_accumulates": 0}
    errors = {"noise": 0.01, "fitted": None, "layout": 0, "values": [0]}
    pair = {"maps": [0, 0], "scales": [20.0, 20.0]}
    fields: Fields = {
        "format_version": FORMAT_VERSION,
        "producer": "tests",
        "model_name": "written",
        "model_sha256": "",
        "calibration": "given",
        "parameters": {
            "ring_dimension": 64,
            "levels": 1,
            "prime_bits": 59,
            "first_prime_bits": 60,
            "digits": 1,
            "security_bits": 128,
            "insecure": True,
        },
        "batch": 1,
        "inputs": [{"name": "x", "views": [[0, ""]], **ends}],
        "outputs": [{"name": "y", "layout": 0, **ends}],
        "layouts": [
            {"shape": [1, 4], "period": 4, "digits": [[1, 1, 4, "slot", 1]], "spill": 0},
            {
                "shape": [1, 40],
                "period": 32,
                "digits": [[1, 1, 32, "slot", 1], [1, 32, 2, "ciphertext", 1]],
                "spill": 0,
            },
            {
                "shape": [1, 4],
                "period": 2,
                "digits": [[1, 1, 2, "slot", 1], [1, 2, 2, "complex", 1]],
                "spill": 0,
            },
            {"shape": [1], "period": 1, "digits": [], "spill": 0},
        ],
        "keys": {"rotations": [1, 2], "conjugation": True, "relinearisation": True},
        "maps": [
            {
                "layer": 0,
                "source": 0,
                "target": 0,
                "packing": "real",
                "window": 0,
                "copies": 0,
                "terms": [["weights", "rows", "columns"]],
                "diagonals": "diagonals",
            }
        ],
        "vectors": [{"values": "bias", "layout": 0}],
        "series": [],
        "layers": [{"name": "x", "source": "", "op": "input", **counts, **errors}],
        "prediction": {
            "error": 0.1,
            "fitted_error": 0.05,
            "allowed_error": 0.5,
            "output_range": 1.0,
            "peak_bytes": 1000,
            "multiplicative_depth": 1,
        },
        "operations": [
            ["input", [], {"tensor": 0, "part": 0, "level": 0, "scale": 40.0}, 0],
            ["hoist", [0], {}, 0],
            ["rotate_hoisted", [0, 1], {"offset": 1}, 0],
            ["dot_plain", [0, 2], {**pair, "diagonals": [0, 1], "rotation": 0}, 0],
            ["dot_plain", [0, 2], {**pair, "diagonals": [2, 3], "rotation": 2}, 0],
            ["rotate_extended", [4], {"offset": 2}, 0],
            ["rotate_extended", [3], {"offset": 1}, 0],
            ["add_extended", [5, 6], {}, 0],
            ["key_switch_down", [7], {}, 0],
            ["add", [3, 8], {}, 0],
            ["add_plain", [9], {"vector": 0, "part": 0}, 0],
            ["square", [10], {}, 0],
            ["rescale", [11], {}, 0],
            ["conjugate", [12], {}, 0],
            ["rotate_sum", [13, 12], {"offsets": [1, 0]}, 0],
            ["mul_plain", [14], {"vector": 0, "part": 0, "scale": 10.0}, 0],
            ["output", [15], {"tensor": 0, "part": 0}, 0],
        ],
    }
    return json.loads(json.dumps(fields)), arrays


@pytest.fixture
def refusal(tmp_path: Path) -> Refusal:
    """refusal(fields, arrays): why Plan.load refuses them, with a correct checksum around them.

    `fields` may also be the bytes of the program.
    """

    def load(fields: Fields | bytes, arrays: Arrays) -> str:
        program = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
        path = tmp_path / "changed.fheplan"
        path.write_bytes(encode_container(FORMAT_VERSION, program, arrays))
        with pytest.raises(FheCompileError) as raised:
            Plan.load(path)
        assert (raised.value.code, raised.value.node) == ("plan-invalid", str(path))
        prefix = "the plan's program is not valid: "
        assert raised.value.reason.startswith(prefix)
        return raised.value.reason.removeprefix(prefix)

    return load
