"""Templates stored and compared under encryption."""

from __future__ import annotations

import json
import threading
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from fhecompile.compile import compile
from fhecompile.errors import FheCompileError
from fhecompile.ir.evaluate import evaluate
from fhecompile.plan import Plan
from runtime.__main__ import main
from runtime.ciphertext_files import open_ciphertexts, read_batch
from runtime.client import encrypt_inputs
from runtime.gallery.programs import match_program, output_type, place_program, places_of
from runtime.gallery.roles import enrol_file, identify_file, read_scores
from runtime.gallery.store import Gallery
from runtime.gallery.templates import Entry
from runtime.inputs import CalibrationWarning
from runtime.key_files import load_evaluation_keys, load_secret, make_keys
from runtime.roles import encrypt_file, evaluate_file
from runtime.server import Server
from tests.runtime.test_roles import altered
from tests.support import REFRESHING, Network, convolution_plan, run_slots
from tests.templates import COSINES, ERROR, FACES, MATRIX, NAMES, PLAN, units

pytest.importorskip("openfhe", reason="OpenFHE is not installed")


@dataclass(frozen=True)
class Files:
    """A folder with keys, the templates of all faces, and a gallery of all of them."""

    folder: Path
    plan: Plan = PLAN

    def __truediv__(self, name: str) -> Path:
        return self.folder / name

    def template(self, x: NDArray[np.float64], name: str) -> Path:
        """The encrypted templates of some faces."""
        encrypt_file(self.plan, self / "keys/public.key", {"x": x}, self / "x.fhe")
        evaluate_file(self.plan, self / "keys/evaluation.keys", self / "x.fhe", self / name)
        return self / name


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Files:
    files = Files(tmp_path_factory.mktemp("gallery"))
    make_keys([PLAN], files / "keys")
    templates = files.template(FACES, "all.fhe")
    enrol_file(PLAN, files / "keys/evaluation.keys", templates, files / "gallery", NAMES)
    files.template(FACES[7:8], "probe.fhe")
    return files


def identify(files: Files, gallery: Path, names: list[str] | None = None) -> dict[str, float]:
    keys, out = files / "keys", files / "scores.fhe"
    plan = files.plan
    identify_file(plan, keys / "evaluation.keys", files / "probe.fhe", gallery, out, names)
    return read_scores(plan, keys / "secret.key", out)


def refusal(call: Callable[..., Any], *arguments: Any, **more: Any) -> str:
    with pytest.raises(FheCompileError) as caught:
        call(*arguments, **more)
    return str(caught.value)


def test_a_plan_of_templates() -> None:
    assert PLAN.parameters.slots == 256 and places_of(PLAN) == 32
    level, scale = output_type(PLAN)
    assert level == PLAN.parameters.levels - 1 and 86 < scale <= 87
    found = run_slots(PLAN, {"x": FACES[:, None]})["template"][:, 0]
    assert np.abs(found - units(FACES)).max() < ERROR


@pytest.mark.parametrize("noise", [False, True])
def test_programs_in_clear_and_simulated(noise: bool) -> None:
    """The same programs on slot vectors: each group's ciphertext holds one template at place 0."""
    u = units(FACES)[:2, None]
    placed = run_slots(place_program(PLAN, 0), {"template": u}, noise=noise)["template"]
    assert np.abs(placed - u).max() < 1e-9
    program = match_program(PLAN, 3)
    inputs = {"template": u[:1], "gallery": u[1:]}
    scores = run_slots(program, inputs, noise=noise)["scores"][0]
    assert scores.shape == (3, 32)
    assert np.abs(scores[:, 0] - COSINES[0, 1]).max() < (1e-3 if noise else 1e-9)
    assert np.abs(scores[:, 1:]).max() < (1e-3 if noise else 1e-9)


def test_templates_of_a_refreshed_network(tmp_path: Path) -> None:
    """Its first prime is too small for scores, which keep another one beside it."""
    net = Network(x=(1, 12))
    hidden = net.op("Relu", net.op("Gemm", "x", np.eye(12) + 0.1, name="wide"), name="relu")
    net.op("Gemm", hidden, MATRIX, np.full(6, 1.0), transB=1, name="y")
    options = {"ring_dimension": 128, "insecure_toy": True, "precision_bits": 6, "match": "gallery"}
    plan = compile(net.model("y"), calibration=FACES, passes=REFRESHING, **options)
    assert [info.op for info in plan.program.operations].count("refresh") == 2
    assert output_type(plan)[0] == plan.parameters.levels - 2
    (y,) = evaluate(net.graph("y"), {"x": FACES[:2, None]}).values()
    u = y / np.linalg.norm(y, axis=-1, keepdims=True)
    found = run_slots(plan, {"x": FACES[:2, None]})["template"]
    assert np.abs(found - u).max() <= 2.0**-6
    inputs = {"template": u[:1], "gallery": u[1:]}
    scores = run_slots(match_program(plan, 1), inputs, noise=True)["scores"][0]
    assert np.abs(scores[:, 0] - np.sum(u[0] * u[1])).max() < 1e-3

    files = Files(tmp_path, plan)
    make_keys([plan], files / "keys")
    probe = files.template(FACES[:1], "probe.fhe")
    enrol_file(plan, files / "keys/evaluation.keys", probe, files / "gallery", ["itself"])
    assert identify(files, files / "gallery") == {"itself": pytest.approx(1.0, abs=2.0**-5)}


def test_everyone_is_compared(made: Files) -> None:
    found = identify(made, made / "gallery")
    assert next(iter(found)) == "person-7"
    assert sorted(found) == sorted(NAMES)
    assert list(found.values()) == sorted(found.values(), reverse=True)
    for k, name in enumerate(NAMES):
        assert abs(found[name] - COSINES[7, k]) < ERROR


def test_a_score_that_is_no_cosine_is_told_of(made: Files) -> None:
    """Of an image unlike the calibration data the template is no unit vector."""
    keys, x, scores = made / "keys", made / "strange.fhe", made / "strange_scores.fhe"
    with pytest.warns(CalibrationWarning, match="^input x reaches "):
        encrypt_file(PLAN, keys / "public.key", {"x": 8 * FACES[7:8]}, x, ignore_range=True)
    identify_file(PLAN, keys / "evaluation.keys", x, made / "gallery", scores)
    with pytest.warns(
        CalibrationWarning, match=r"^output scores reaches .* for -1 \.\. 1; the val"
    ):
        read_scores(PLAN, keys / "secret.key", scores)


def test_one_is_compared(made: Files) -> None:
    found = identify(made, made / "gallery", ["person-39"])
    assert list(found) == ["person-39"]
    assert abs(found["person-39"] - COSINES[7, 39]) < ERROR


def test_decrypted_slots_hold_scores_and_nothing_else(made: Files) -> None:
    """Every slot is the score of its place, zero where nobody is."""
    names = ["person-3", "person-20", "person-35"]
    keys = made / "keys"
    out = made / "some.fhe"
    identify_file(PLAN, keys / "evaluation.keys", made / "probe.fhe", made / "gallery", out, names)
    secret = load_secret(PLAN, keys / "secret.key")
    expected = np.zeros((2, 32))
    expected[0, 3], expected[0, 20], expected[1, 3] = COSINES[7, [3, 20, 35]]
    import openfhe

    with zipfile.ZipFile(out) as archive:
        for group in range(2):
            data = archive.read(f"scores-{group}")
            ciphertext = openfhe.DeserializeCiphertextString(data, openfhe.BINARY)
            scale = 2 * (output_type(PLAN)[1] - PLAN.parameters.prime_bits)
            slots = secret.decrypt(ciphertext, scale).reshape(8, 32)
            assert np.abs(slots - expected[group]).max() < ERROR


def test_adding_and_removing_touches_no_other_file(made: Files, tmp_path: Path) -> None:
    keys, gallery = made / "keys/evaluation.keys", tmp_path / "gallery"
    enrol_file(PLAN, keys, made.template(FACES[:4], "four.fhe"), gallery, NAMES[:4])
    before = {path.name: path.read_bytes() for path in gallery.glob("*.template")}
    secret = load_secret(PLAN, made / "keys/secret.key")
    tag = secret.secret_key.GetKeyTag()
    store = Gallery(gallery, PLAN, tag)
    expected = [Entry(n, k, gallery / f"{n}.template") for k, n in enumerate(NAMES[:4])]
    assert store.entries() == expected
    store.remove("person-1")
    enrol_file(PLAN, keys, made.template(FACES[9:10], "nine.fhe"), gallery, ["nine"])
    assert [e.place for e in store.entries() if e.name == "nine"] == [1]  # the free place
    after = {path.name: path.read_bytes() for path in gallery.glob("*.template")}
    assert after.pop("nine.template") and before.pop("person-1.template")
    assert after == before
    found = identify(made, gallery)
    for name, k in (("person-0", 0), ("person-2", 2), ("person-3", 3), ("nine", 9)):
        assert abs(found.pop(name) - COSINES[7, k]) < ERROR
    assert not found


def test_names(made: Files, tmp_path: Path) -> None:
    keys, templates = made / "keys/evaluation.keys", made.template(FACES[:2], "two.fhe")
    gallery = tmp_path / "gallery"
    assert refusal(enrol_file, PLAN, keys, templates, gallery, ["a"]) == (
        f"{templates}: there are 2 templates and 1 different names [template-name]\n"
        "  hint: give one name for each"
    )
    for name in ("", "../x", ".x", "a/b", "a" * 101):
        assert refusal(enrol_file, PLAN, keys, templates, gallery, [name, "b"]) == (
            f"{name!r} cannot be the name of a template [template-name]\n"
            "  hint: use up to 100 letters, digits, dots, dashes and underscores"
        )
    enrol_file(PLAN, keys, templates, gallery, ["a", "b"])
    assert refusal(enrol_file, PLAN, keys, templates, gallery, ["c", "b"]) == (
        f"{gallery}: there is a template b already [template-exists]\n"
        "  hint: choose another name, or remove it first"
    )
    assert sorted(p.name for p in gallery.glob("*.template")) == ["a.template", "b.template"]
    unknown = (
        f"{gallery}: there is no template x [no-such-template]\n"
        "  hint: list the names with: python -m runtime gallery"
    )
    secret = load_secret(PLAN, made / "keys/secret.key")
    assert refusal(Gallery(gallery, PLAN, secret.secret_key.GetKeyTag()).remove, "x") == unknown
    assert refusal(identify, made, gallery, ["x"]) == unknown
    outside = unknown.replace("template x", "template ../gallery/a")
    assert refusal(identify, made, gallery, ["../gallery/a"]) == outside
    store = Gallery(gallery, PLAN, secret.secret_key.GetKeyTag())
    assert refusal(store.remove, "../gallery/a") == outside
    assert list(identify(made, gallery, ["a", "a"])) == ["a"]
    assert refusal(identify, made, tmp_path / "none") == (
        f"{tmp_path / 'none'}: there is no template to compare with [empty-gallery]\n"
        "  hint: enrol first with: python -m runtime enrol"
    )
    out = tmp_path / "out"
    assert refusal(identify_file, PLAN, keys, templates, gallery, out) == (
        f"{templates}: there are 2 templates, one is compared at a time [one-probe]\n"
        "  hint: encrypt one image"
    )


def test_damaged_templates(made: Files, tmp_path: Path) -> None:
    gallery = tmp_path / "gallery"
    gallery.mkdir()
    data = (made / "gallery/person-5.template").read_bytes()
    (gallery / "a.template").write_bytes(data)
    (gallery / "b.template").write_bytes(data)
    assert refusal(identify, made, gallery) == (
        f"{gallery / 'b.template'}: the template is damaged: it is at the place of a "
        "[template-damaged]\n  hint: remove it and enrol again"
    )
    (gallery / "b.template").write_bytes(data[:-10])
    assert "b.template: this is no file of keys or ciphertexts" in refusal(identify, made, gallery)
    (gallery / "b.template").unlink()
    changed = bytearray(data)
    changed[len(data) // 3] ^= 1
    (gallery / "a.template").write_bytes(changed)
    assert "[bundle-damaged]" in refusal(identify, made, gallery)


def test_another_client(made: Files, tmp_path: Path) -> None:
    """A gallery is of one key: what others enrolled does not load, and cannot be added to."""
    other = Files(tmp_path)
    make_keys([PLAN], other / "keys")
    other.template(FACES[:1], "probe.fhe")
    text = refusal(identify, other, made / "gallery")
    assert "a stored template made with another key [wrong-key-set]" in text
    keys = other / "keys/evaluation.keys"
    text = refusal(enrol_file, PLAN, keys, other / "probe.fhe", made / "gallery", ["other"])
    assert "a stored template made with another key [wrong-key-set]" in text
    text = refusal(enrol_file, PLAN, keys, made / "probe.fhe", tmp_path / "new", ["other"])
    assert "encrypted outputs made with another key [wrong-key-set]" in text


def test_a_plan_without_templates(made: Files) -> None:
    other: Plan = convolution_plan()
    assert refusal(match_program, other, 1) == (
        "this plan does not give templates [no-template]\n"
        "  hint: compile the model with --match gallery"
    )
    assert refusal(Gallery, made / "gallery", other, "tag").startswith("this plan does not give")
    deeper = msgspec.structs.replace(PLAN.program.parameters, levels=PLAN.parameters.levels + 1)
    forged = Plan(msgspec.structs.replace(PLAN.program, parameters=deeper), PLAN.arrays)
    assert refusal(match_program, forged, 1).startswith("this plan does not give templates")


def test_a_change_waits_for_another(tmp_path: Path) -> None:
    gallery = Gallery(tmp_path / "gallery", PLAN, "tag")
    order = []

    def change() -> None:
        with gallery.changing():
            order.append("second")

    with gallery.changing():
        waiting = threading.Thread(target=change)
        waiting.start()
        waiting.join(0.2)
        order.append("first")
    waiting.join(5)
    assert order == ["first", "second"]


def test_scores_that_are_none(made: Files, tmp_path: Path) -> None:
    identify(made, made / "gallery", ["person-1"])
    secret = made / "keys/secret.key"

    def misplace(entries: dict[str, bytes], _: Any) -> None:
        entries["names.json"] = b'{"groups": 1, "places": {"x": [0, 99]}}'

    def drop(entries: dict[str, bytes], _: Any) -> None:
        del entries["names.json"]

    for change in (misplace, drop):
        forged = altered(made / "scores.fhe", tmp_path / "scores", change)
        assert refusal(read_scores, PLAN, secret, forged) == (
            f"{forged}: the file is damaged: it does not hold scores by name [bundle-damaged]\n"
            "  hint: copy it again, or make it again"
        )


def test_encryption_at_a_level(made: Files) -> None:
    """Inputs of these programs are at the levels they say, which the client can encrypt at."""
    secret = load_secret(PLAN, made / "keys/secret.key")
    program = match_program(PLAN, 1)
    context = load_evaluation_keys(program, made / "keys/evaluation.keys")
    u = units(FACES)
    inputs = encrypt_inputs(program, secret, {0: u[:1], 1: u[1:2]})
    server = Server(program, context, threads=1)
    outputs, _ = server.evaluate(inputs)
    scale = 2 * (output_type(PLAN)[1] - PLAN.parameters.prime_bits)
    found = secret.decrypt(outputs[0, 0], scale)[0].real
    assert abs(found - COSINES[0, 1]) < ERROR
    server.close()
    with open_ciphertexts(made / "all.fhe", "outputs", PLAN, context.key_tag) as bundle:
        assert len(read_batch(bundle, 39, "outputs", PLAN, secret.context)) == 1


def test_commands(made: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan, gallery = tmp_path / "net.fheplan", tmp_path / "gallery"
    PLAN.save(plan)
    made.template(FACES[:2], "two.fhe")

    def call(role: str, *arguments: object, key: str = "evaluation.keys") -> str:
        words = [role, plan, "--key", made / "keys" / key, "--insecure-toy", *arguments]
        code = main([str(word) for word in words])
        said = capsys.readouterr()
        assert code == 0, said.err
        return said.out

    at = ("--gallery", gallery)
    said = call("enrol", *at, "--input", made / "two.fhe", "--name", "a", "--name", "b")
    assert said == f"stored in {gallery}: a, b\n"
    assert call("gallery", *at) == "a\nb\n"
    out = tmp_path / "scores"
    said = call("identify", *at, "--input", made / "probe.fhe", "--output", out)
    assert said == f"compared with 2 templates\nwritten: {out}\n"
    lines = call("scores", "--input", out, key="secret.key").splitlines()
    found = {name: float(score) for score, name in map(str.split, lines)}
    assert abs(found["a"] - COSINES[7, 0]) < ERROR and abs(found["b"] - COSINES[7, 1]) < ERROR
    assert json.loads(call("scores", "--input", out, "--json", key="secret.key")).keys() == {
        "a",
        "b",
    }
    assert call("remove", *at, "--name", "a") == "removed: a\n"
    assert call("gallery", *at) == "b\n"
