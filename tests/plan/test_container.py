"""The plan's file: no damage goes unnoticed, and every damage is told apart from a bug of ours."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from safetensors.numpy import save as save_safetensors

from fhecompile.errors import FheCompileError
from fhecompile.plan import Plan
from fhecompile.plan.container import digest, encode_container, read_container
from fhecompile.plan.schema import FORMAT_VERSION

DAMAGE = {"plan-damaged", "not-a-plan", "plan-version"}


def refused(path: Path, data: bytes) -> FheCompileError:
    """The error of loading these bytes."""
    path.write_bytes(data)
    with pytest.raises(FheCompileError) as raised:
        Plan.load(path)
    return raised.value


@pytest.fixture(scope="session")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damaged") / "plan.fheplan"


@given(
    st.text(st.characters(codec="utf-8")),
    st.dictionaries(
        st.text("abc.", min_size=1),
        st.sampled_from([np.float64, np.int32]).flatmap(
            lambda dtype: arrays(dtype, array_shapes(min_dims=0, min_side=0, max_side=3))
        ),
        max_size=3,
    ),
)
def test_round_trip(scratch: Path, program: str, constants: dict[str, np.ndarray]) -> None:  # type: ignore[type-arg]
    scratch.write_bytes(encode_container(7, program.encode(), constants))
    found_program, found = read_container(scratch, 7)
    assert found_program.decode() == program
    assert found.keys() == constants.keys()
    for name, array in constants.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape
        assert found[name].tobytes() == array.tobytes()


@given(data=st.data())
def test_truncation(tiny_file: Path, scratch: Path, data: st.DataObject) -> None:
    whole = tiny_file.read_bytes()
    length = data.draw(st.one_of(st.integers(0, 64), st.integers(0, len(whole) - 1)))
    assert refused(scratch, whole[:length]).code in DAMAGE


@given(data=st.data())
def test_single_bit_flip(tiny_file: Path, scratch: Path, data: st.DataObject) -> None:
    whole = bytearray(tiny_file.read_bytes())
    at = data.draw(st.one_of(st.integers(0, 200), st.integers(0, len(whole) - 1)))
    whole[at] ^= 1 << data.draw(st.integers(0, 7))
    assert refused(scratch, bytes(whole)).code in DAMAGE


@given(data=st.data())
def test_other_bytes(scratch: Path, data: st.DataObject) -> None:
    junk = data.draw(st.binary(max_size=100))
    header = data.draw(st.sampled_from([b"", len(junk).to_bytes(8, "little")]))
    assert refused(scratch, header + junk).code in DAMAGE


@pytest.mark.parametrize(
    ("header", "code"),
    [
        (b"[1, 2]", "not-a-plan"),
        (b"3", "not-a-plan"),
        (b"{}", "not-a-plan"),
        (b'{"__metadata__": 3}', "plan-damaged"),
        (b'{"__metadata__": {"format": "other"}}', "not-a-plan"),
        (b'{"a":' + b"[" * 100_000, "plan-damaged"),
        (
            b'{"__metadata__": {"format": "fheplan", "version": "%d"}}' % FORMAT_VERSION,
            "plan-damaged",
        ),
        (b'{"__metadata__": {"format": "fheplan", "version": "1"}}', "plan-version"),
        (b'{"__metadata__": {"format": "fheplan"}}', "plan-version"),
    ],
)
def test_foreign_headers(scratch: Path, header: bytes, code: str) -> None:
    assert refused(scratch, len(header).to_bytes(8, "little") + header).code == code


def test_appended_bytes(tiny_file: Path, scratch: Path) -> None:
    assert refused(scratch, tiny_file.read_bytes() + b"\0").code == "plan-damaged"


def test_checksum_covers_arrays(tiny: Plan, scratch: Path) -> None:
    """A safetensors writer that changes a weight but keeps the metadata is noticed."""
    whole = tiny.encode()
    length = int.from_bytes(whole[:8], "little")
    metadata = json.loads(whole[8 : 8 + length])["__metadata__"]
    changed = {name: np.array(array) for name, array in tiny.arrays.items()}
    weights = next(a for a in changed.values() if a.dtype == np.float64 and a.size > 1)
    weights.flat[0] += 1
    error = refused(scratch, save_safetensors(changed, metadata))
    assert str(error) == (
        f"{scratch}: the plan file is damaged: its checksum does not match its content "
        "[plan-damaged]\n  hint: copy it again, or compile the model again"
    )


def test_digest_separates_names_types_and_shapes() -> None:
    x = np.arange(4, dtype=np.int32)
    variants = [
        {"a": x},
        {"b": x},
        {"a": x.reshape(2, 2)},
        {"a": x.view(np.float32)},
        {"a": x[:2], "b": x[2:]},
        {"a": x + 1},
    ]
    assert len({digest(b"", v) for v in variants}) == len(variants)
    assert digest(b"x", {}) != digest(b"", {})


@pytest.mark.parametrize(
    ("length", "reason"),
    [(0, "it is shorter than its header"), (9, "it is shorter than its header")],
)
def test_text_of_damage(tiny_file: Path, scratch: Path, length: int, reason: str) -> None:
    error = refused(scratch, tiny_file.read_bytes()[:length])
    assert error.reason == f"the plan file is damaged: {reason}"


def test_text_of_a_cut_off_end(tiny_file: Path, scratch: Path) -> None:
    error = refused(scratch, tiny_file.read_bytes()[:-1])
    assert error.reason == "the plan file is damaged: its header does not match its size"


def test_text_for_another_file(scratch: Path) -> None:
    assert str(refused(scratch, b"\x08\x00\x12\x07pytorch: an ONNX model")) == (
        f"{scratch}: this is not a plan file [not-a-plan]\n"
        "  hint: make one with: fhecompile model.onnx"
    )


def test_text_for_another_version(tiny: Plan, scratch: Path) -> None:
    data = encode_container(FORMAT_VERSION + 1, b"{}", tiny.arrays)
    assert str(refused(scratch, data)) == (
        f"{scratch}: the plan has format version {FORMAT_VERSION + 1}, "
        f"this version reads {FORMAT_VERSION} [plan-version]\n"
        "  hint: compile the model again with this version of fhecompile"
    )


def test_text_for_a_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "missing.fheplan"
    with pytest.raises(FheCompileError) as raised:
        Plan.load(path)
    assert raised.value.code == "no-such-file"
    assert raised.value.reason == "cannot read the plan (No such file or directory)"
