"""Enrolling and comparing encrypted images: evaluated and stored or compared by one process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fhecompile.errors import EXIT_BAD_INPUT, EXIT_OK, FheCompileError
from runtime.__main__ import main
from runtime.gallery.roles import enrol_file, identify_file, read_scores
from runtime.gallery.templates import Entry, read_list, write_list
from runtime.key_files import make_keys
from runtime.roles import encrypt_file, evaluate_file
from tests.templates import COSINES, FACES, PLAN

pytest.importorskip("openfhe", reason="OpenFHE is not installed")

ERROR = 1e-4


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with keys, three images, one image, and their templates."""
    folder = tmp_path_factory.mktemp("images")
    make_keys([PLAN], folder / "keys")
    for name, faces in (("three", FACES[:3]), ("probe", FACES[7:8])):
        image = folder / f"{name}.images"
        encrypt_file(PLAN, folder / "keys/public.key", {"x": faces[:, None]}, image)
        evaluate_file(PLAN, folder / "keys/evaluation.keys", image, folder / f"{name}.templates")
    PLAN.save(folder / "net.fheplan")
    return folder


def refusal(call: Callable[..., Any], *arguments: Any, **more: Any) -> str:
    with pytest.raises(FheCompileError) as caught:
        call(*arguments, **more)
    return str(caught.value)


def test_images_give_what_their_templates_give(made: Path, tmp_path: Path) -> None:
    keys, names = made / "keys/evaluation.keys", ["a", "b", "c"]
    images, templates = tmp_path / "images", tmp_path / "templates"
    shares: list[float] = []
    enrol_file(PLAN, keys, made / "three.images", images, names, progress=shares.append)
    assert shares == sorted(shares) and shares[-1] == 1.0
    # Evaluations come first, and are most of the work.
    assert len([share for share in shares if share > 0.5]) > 3
    assert len(set(shares[-3:])) == 3
    enrol_file(PLAN, keys, made / "three.templates", templates, names)
    scores = []
    for probe, gallery in (("probe.images", images), ("probe.templates", templates)):
        out = tmp_path / probe
        shares.clear()
        count = identify_file(PLAN, keys, made / probe, gallery, out, progress=shares.append)
        assert count == 3
        assert shares == sorted(shares) and shares[-1] == 1.0
        scores.append(read_scores(PLAN, made / "keys/secret.key", out))
    assert scores[0] == scores[1]  # to the last bit: evaluation is deterministic
    for face, name in enumerate(names):
        assert abs(scores[0][name] - COSINES[7, face]) < ERROR


def test_what_is_refused_before_an_evaluation(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def evaluate(*_: Any, **__: Any) -> None:
        raise AssertionError("it was evaluated")

    monkeypatch.setattr("runtime.gallery.roles.evaluate_bundle", evaluate)
    keys, images, gallery = made / "keys/evaluation.keys", made / "three.images", tmp_path / "g"
    assert refusal(enrol_file, PLAN, keys, images, gallery, ["a", "b"]) == (
        f"{images}: there are 3 images and 2 different names [template-name]\n"
        "  hint: give one name for each"
    )
    assert not gallery.exists()
    enrol_file(PLAN, keys, made / "three.templates", gallery, ["a", "b", "c"])
    assert refusal(enrol_file, PLAN, keys, images, gallery, ["d", "e", "c"]) == (
        f"{gallery}: there is a template c already [template-exists]\n"
        "  hint: choose another name, or remove it first"
    )
    out = tmp_path / "out"
    assert refusal(identify_file, PLAN, keys, images, gallery, out) == (
        f"{images}: there are 3 images, one is compared at a time [one-probe]\n"
        "  hint: encrypt one image"
    )
    probe = made / "probe.images"
    assert refusal(identify_file, PLAN, keys, probe, gallery, out, ["x"]).startswith(
        f"{gallery}: there is no template x [no-such-template]"
    )
    assert refusal(identify_file, PLAN, keys, probe, [], out) == (
        "there is no template to compare with [empty-gallery]\n"
        "  hint: enrol first with: python -m runtime enrol"
    )


def test_lists_of_files(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Names and places of someone else's keeping: places in two ciphertexts, files anywhere."""
    entries = [Entry(n, place, tmp_path / f"{place}") for n, place in (("a", 40), ("b", 3))]
    entries.append(Entry("c", 8, tmp_path / "c"))
    write_list(tmp_path / "list", entries)
    assert read_list(tmp_path / "list") == entries

    def call(role: str, *arguments: object, key: str = "evaluation.keys") -> tuple[int, str, str]:
        words = [role, made / "net.fheplan", "--key", made / "keys" / key, "--insecure-toy"]
        code = main([str(word) for word in (*words, *arguments)])
        return (code, *capsys.readouterr())

    at = ("--list", tmp_path / "list")
    code, out, _ = call("enrol", *at, "--input", made / "three.images")
    assert (code, out) == (EXIT_OK, f"stored in {tmp_path / 'list'}: a, b, c\n")
    write_list(tmp_path / "list", [entries[0], entries[1]])
    asked = (*at, "--input", made / "probe.images", "--output", tmp_path / "scores")
    code, out, _ = call("identify", *asked, "--progress", "json")
    assert code == EXIT_OK
    shares = [json.loads(line)["progress"] for line in out.splitlines()]
    assert shares == sorted(shares) and shares[-1] == 1.0
    found = read_scores(PLAN, made / "keys/secret.key", tmp_path / "scores")
    assert sorted(found) == ["a", "b"]
    assert np.abs([found["a"] - COSINES[7, 0], found["b"] - COSINES[7, 1]]).max() < ERROR
    code, _, said = call("identify", *asked, "--name", "a")
    assert code == EXIT_BAD_INPUT
    assert said.splitlines()[-2:] == [
        "error: --name and --list exclude each other [template-name]",
        "  hint: leave --name out",
    ]
    write_list(tmp_path / "list", [Entry("a", 3, tmp_path / "40")])
    code, _, said = call("identify", *asked)
    assert code == EXIT_BAD_INPUT
    assert said.splitlines()[-2:] == [
        f"error: {tmp_path / '40'}: the template is damaged: it is that of another place "
        "[template-damaged]",
        "  hint: remove it and enrol again",
    ]


def entry(name: str = '"a"', place: str = "1", path: str = '"p"', more: str = "") -> str:
    return f'{{"name": {name}, "place": {place}, "path": {path}{more}}}'


@pytest.mark.parametrize(
    "text",
    [
        *("", "{}", "[1]", '[{"name": "a"}]', f"[{entry(place='-1')}]", f"[{entry(place='1e9')}]"),
        *(f"[{entry(path='1')}]", "[" + entry(more=', "more": 1') + "]"),
        # A name, a place or a file that is there twice.
        f"[{entry()}, " + entry(place="2", path='"q"') + "]",
        f"[{entry()}, " + entry(name='"b"', path='"q"') + "]",
        f"[{entry()}, " + entry(name='"b"', place="2") + "]",
    ],
)
def test_lists_that_are_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "list"
    path.write_text(text)
    assert refusal(read_list, path) == (
        f"{path}: this is no list of templates [list-unreadable]\n"
        '  hint: it is JSON: [{"name": NAME, "place": NUMBER, "path": FILE}, ...]'
    )
