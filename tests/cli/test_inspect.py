"""`fhecompile inspect`, `passes`, `ops`, `--help` and `--version`."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from fhecompile.version import __version__
from passes import BUILT_IN
from tests.cli.conftest import Call
from tests.conftest import Golden

ROOT = Path(__file__).resolve().parents[2]
FIELDS = [
    "ring_dimension",
    "security_bits",
    "log_qp",
    "multiplicative_depth",
    "levels",
    "digits",
    "bootstraps",
    "rotations",
    "key_switches",
    "rotation_keys",
    "key_bytes",
    "plaintext_mults",
    "slot_utilisation",
    "plan_bytes",
]
LAYER_FIELDS = {
    "layer",
    "source",
    "op",
    "level",
    "ciphertexts",
    "products",
    "floor",
    "utilisation",
    "rotations",
    "key_switches",
    "seconds",
}
HEAVY = {"mpmath", "networkx", "numpy", "onnx", "onnxruntime", "openfhe", "rich", "scipy", "torch"}


def test_json_fields(call: Call, plan: Path) -> None:
    done = call("inspect", plan, "--json")
    found = json.loads(done.out)
    assert (done.code, done.err) == (0, "")
    assert [name for name in found if name in FIELDS] == FIELDS
    assert found["plan_bytes"] == plan.stat().st_size
    assert found["security_bits"] == 0 and found["insecure"] is True
    assert all(layer.keys() == LAYER_FIELDS for layer in found["layers"])
    assert found["openfhe"]["SetScalingTechnique"] == "FIXEDMANUAL"
    assert found["inputs"] == [{"name": "x", "shape": [1, 4]}]
    assert sum(layer["products"] for layer in found["layers"]) == found["plaintext_mults"]
    assert sum(layer["rotations"] for layer in found["layers"]) == found["rotations"]


def test_people_see_the_same_names(call: Call, plan: Path) -> None:
    done = call("inspect", plan)
    lines = done.out.splitlines()
    assert done.code == 0
    assert lines[0].startswith("small, by fhecompile ")
    assert [line.split()[0] for line in lines[1 : 1 + len(FIELDS)]] == FIELDS
    assert "SetNumLargeDigits" in done.out and "HEStd_NotSet" in done.out
    assert done.err == "warning: this plan is INSECURE: its ring is a toy, for tests only\n"


def test_text_is_one_operation_per_line(call: Call, plan: Path) -> None:
    lines = call("inspect", plan, "--text").out.splitlines()
    operations = [line for line in lines if not line.startswith("#")]
    assert operations[0].startswith("%0 = input tensor=0 part=0 level=0 scale=")
    assert [int(line[1:].split(" ")[0]) for line in operations] == list(range(len(operations)))
    assert "# hidden (affine) first" in lines
    described = json.loads(call("inspect", plan, "--text", "--json").out)
    assert described["operations"] == lines


def test_explain_shows_maps_and_layouts(call: Call, plan: Path) -> None:
    lines = [line.split() for line in call("inspect", plan, "--explain").out.splitlines()]
    start = lines.index(["linear", "maps"])
    assert [line[:4] for line in lines[start + 3 : start + 5]] == [
        ["hidden", "x", "real", "0"],
        ["y", "active", "direct", "1"],
    ]
    start = lines.index(["layouts", "(=", "replica,", ".", "hole,", "*", "spill)"])
    assert lines[start + 3][:14] == [
        *("0", "n=1", "f=4", "100", "%"),
        *("=", "=", "=", "=", "=", "|", "f1", "f0", "x"),
    ]


def test_explain_shows_precision(call: Call, plan: Path, golden: Golden) -> None:
    shown = call("inspect", plan, "--explain").out
    table = shown[shown.index("precision, predicted") : shown.index("OpenFHE parameters")]
    golden("precision.txt", "\n".join(line.rstrip() for line in table.rstrip().splitlines()) + "\n")
    described = json.loads(call("inspect", plan, "--json").out)["precision"]
    assert [row["layer"] for row in described] == ["x", "hidden", "active", "y", "y.output"]
    hidden = described[1]
    assert set(hidden) == {"layer", "source", "op", "low", "high", "noise", "fitted", "bits"}
    largest = max(-hidden["low"], hidden["high"])
    assert hidden["bits"] == pytest.approx(math.log2(largest / hidden["noise"]))
    assert hidden["fitted"] == 0.0


def test_explain_of_a_model_is_that_of_its_plan(call: Call, model: Path) -> None:
    done = call(model, "--ring-dimension", "256", "--insecure-toy", "--explain")
    path = model.with_suffix(".fheplan")
    shown = call("inspect", path, "--explain").out
    tables = shown[shown.index("linear maps") : shown.index("OpenFHE parameters")]
    assert tables in done.out


def test_maps_and_layouts_in_json(call: Call, plan: Path) -> None:
    found = json.loads(call("inspect", plan, "--json").out)
    assert [(m["layer"], m["source"], m["products"]) for m in found["maps"]] == [
        ("hidden", "x", 4),
        ("y", "active", 1),
    ]
    assert found["layouts"][1] == {
        "shape": [1, 3],
        "ciphertexts": 1,
        "period": 4,
        "spill": 0,
        "filled": 0.75,
        "picture": "= = = = = | f1 f0",
        "layers": ["hidden", "active"],
    }


def test_operations_and_maps_exclude_each_other(call: Call, plan: Path) -> None:
    done = call("inspect", plan, "--text", "--explain")
    assert done.code == 2
    assert done.err.endswith("Error: --text shows the operations alone: leave out --explain\n")


def test_html(call: Call, plan: Path, tmp_path: Path) -> None:
    page = tmp_path / "a.html"
    done = call("inspect", plan, "--html", page)
    assert done.code == 0 and done.out.endswith(f"written: {page}\n")
    first = page.read_bytes()
    described = call("inspect", plan, "--html", page, "--json")
    assert json.loads(described.out)["maps"] and described.err == f"written: {page}\n"
    assert page.read_bytes() == first
    assert call("inspect", plan, "--html", page, "--text").out.startswith("# x (input)")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.html", plan.name]


def test_html_errors(call: Call, plan: Path, tmp_path: Path) -> None:
    before = plan.read_bytes()
    assert call("inspect", plan, "--html", plan) == (
        2,
        "",
        f"error: {plan}: that is the plan itself [cannot-write]\n"
        "  hint: choose another place with --html\n",
    )
    assert call("inspect", plan, "--html", tmp_path) == (
        2,
        "",
        f"error: {tmp_path}: cannot write there (that is a folder) [cannot-write]\n"
        "  hint: choose another place with --html\n",
    )
    assert plan.read_bytes() == before


def test_passes(call: Call) -> None:
    found = json.loads(call("passes", "--json").out)
    assert [entry["name"] for entry in found] == list(BUILT_IN)
    assert all(entry["text"].endswith(".") for entry in found)
    assert {"complex": True}.items() <= dict(
        found[BUILT_IN.index("assign_layouts")]["options"]
    ).items()
    done = call("passes")
    assert "{samples=0}" in done.out and done.out.count("\n") > len(BUILT_IN)


def test_operators(call: Call) -> None:
    found = json.loads(call("ops", "--json").out)
    assert {
        "name": "Tile",
        "supported": True,
        "opset": 7,
        "text": "the parameters are constant",
    } in (found)
    assert [e["text"] for e in found if e["name"] == "LpPool"] == [
        "replace it by AveragePool and fine-tune"
    ]
    done = call("ops")
    assert done.out.startswith("compiled\n") and "\nrefused\n" in done.out
    assert done.out.count("\n") > len(found)


def test_version(call: Call) -> None:
    assert call("--version") == (0, f"fhecompile {__version__}\n", "")


@pytest.mark.parametrize("module", ["fhecompile", "fhecompile.cli"])
def test_module_runs(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module, "--version"], capture_output=True, text=True, cwd=ROOT
    )
    assert (done.returncode, done.stdout) == (0, f"fhecompile {__version__}\n"), done.stderr


@pytest.mark.parametrize(
    "arguments", [["--help"], ["compile", "-h"], ["check", "-h"], ["inspect", "-h"]]
)
def test_help_is_light(arguments: list[str]) -> None:
    code = (
        "import sys; from fhecompile.cli import main; "
        f"code = main({arguments}); "
        "print('LOADED', *{name.partition('.')[0] for name in sys.modules}); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    text, _, loaded = done.stdout.partition("LOADED")
    assert done.returncode == 0, done.stderr
    assert "Usage: fhecompile" in text and not HEAVY.intersection(loaded.split())


def test_help_names_both_forms(call: Call) -> None:
    text = call("--help").out
    assert "Usage: fhecompile MODEL.onnx [OPTIONS]\n       fhecompile COMMAND [ARGS]..." in text
    assert "--precision-bits" in text and "--input-shape NAME=1x3x32x32" in text
