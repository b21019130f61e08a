"""Plans in memory and on disk: the same thing, written whole or not at all."""

from __future__ import annotations

import builtins
import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fhecompile.errors import FheCompileError
from fhecompile.plan import Plan


def test_round_trip(tiny: Plan, tiny_file: Path) -> None:
    loaded = Plan.load(tiny_file)
    assert loaded.program == tiny.program
    assert loaded.arrays.keys() == tiny.arrays.keys()
    for name, array in tiny.arrays.items():
        assert loaded.arrays[name].dtype == array.dtype
        assert np.array_equal(loaded.arrays[name], array)
    assert loaded.types == tiny.types
    assert loaded.layouts == tiny.layouts
    assert loaded.parameters == tiny.parameters
    assert loaded.encode() == tiny_file.read_bytes()


def test_maps_and_vectors(tiny: Plan, tiny_file: Path) -> None:
    loaded = Plan.load(tiny_file)
    for (made, wanted), (again, listed) in zip(tiny.maps, loaded.maps, strict=True):
        assert listed == wanted == made.diagonals
        assert np.array_equal(again.expand(listed), made.expand(wanted))
    for number, info in enumerate(tiny.program.vectors):
        layout = tiny.layouts[info.layout]
        packed = layout.pack(np.broadcast_to(tiny.arrays[info.values], layout.shape))
        for part in range(layout.ciphertexts):
            assert np.array_equal(loaded.vector(number, part), packed[part])


def test_save_returns_the_size(tiny: Plan, tmp_path: Path) -> None:
    path = tmp_path / "plan.fheplan"
    assert tiny.save(path) == path.stat().st_size
    assert tiny.save(str(path)) == path.stat().st_size


def fail(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_failing_write_leaves_nothing(
    tiny: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "plan.fheplan"
    monkeypatch.setattr(os, step, fail)
    with pytest.raises(FheCompileError) as raised:
        tiny.save(path)
    assert str(raised.value) == (
        f"{path}: cannot write there (No space left on device) [cannot-write]\n"
        "  hint: choose another place with -o"
    )
    assert list(tmp_path.iterdir()) == []


def test_failing_write_keeps_the_old_file(
    tiny: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "plan.fheplan"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(FheCompileError):
        tiny.save(path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_interruption_leaves_nothing(
    tiny: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        tiny.save(tmp_path / "plan.fheplan")
    assert list(tmp_path.iterdir()) == []


def test_missing_folder(tiny: Plan, tmp_path: Path) -> None:
    with pytest.raises(FheCompileError) as raised:
        tiny.save(tmp_path / "missing" / "plan.fheplan")
    assert raised.value.code == "cannot-write"
    assert raised.value.reason == "cannot write there (No such file or directory)"


def test_folder_in_the_way(tiny: Plan, tmp_path: Path) -> None:
    path = tmp_path / "plan.fheplan"
    path.mkdir()
    with pytest.raises(FheCompileError) as raised:
        tiny.save(path)
    assert raised.value.code == "cannot-write"
    assert list(tmp_path.iterdir()) == [path]


def test_read_only_folder(tiny: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked of the system where it says no, and played where it does not (the root user)."""
    tmp_path.chmod(0o500)
    if os.access(tmp_path, os.W_OK):

        def refuse(*_: Any, **__: Any) -> None:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

        monkeypatch.setattr(builtins, "open", refuse)
    try:
        with pytest.raises(FheCompileError) as raised:
            tiny.save(tmp_path / "plan.fheplan")
    finally:
        monkeypatch.undo()
        tmp_path.chmod(0o700)
    assert raised.value.code == "cannot-write"
    assert raised.value.reason == "cannot write there (Permission denied)"
    assert list(tmp_path.iterdir()) == []
