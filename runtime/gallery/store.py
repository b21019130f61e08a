"""A gallery on disk: a folder with a file per template, which nothing but that file depends on.

`NAME.template` is a template's file (`runtime.gallery.templates`); its place is what its header
says. Adding writes one file and removing deletes one; the others are not touched. One process
changes a gallery at a time.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fhecompile.errors import FheCompileError
from fhecompile.plan import Plan
from fhecompile.plan.files import make_folder
from runtime.gallery.templates import Entry, TemplateFiles, check_name, damaged

SUFFIX = ".template"
LOCK = "lock"


class Gallery:
    """The templates of one client that one plan has made.

    Args:
        folder: where they are; made when the first is added.
        plan: the plan, compiled with `--match gallery`.
        key_tag: the client's key.
    """

    def __init__(self, folder: Path, plan: Plan, key_tag: str) -> None:
        self.folder, self.files = folder, TemplateFiles(plan, key_tag)

    def entries(self, names: Sequence[str] | None = None) -> list[Entry]:
        """Stored templates, by place; the header of each one's file is checked.

        Args:
            names: the templates wanted; None: all.
        """
        if names is None:
            paths = sorted(self.folder.glob(f"*{SUFFIX}"))
        else:
            paths = [self._existing(name) for name in dict.fromkeys(names)]
        found: dict[int, Entry] = {}
        for path in paths:
            place = self.files.place(path)
            if place in found:
                raise damaged(path, f"it is at the place of {found[place].name}")
            found[place] = Entry(path.name.removesuffix(SUFFIX), place, path)
        return [found[place] for place in sorted(found)]

    def free_entries(self, names: Sequence[str]) -> list[Entry]:
        """What templates of these names are to be stored as, at the lowest free places."""
        for name in names:
            self.check_free(name)
        taken = {entry.place for entry in self.entries()}
        places = (place for place in itertools.count() if place not in taken)
        return [
            Entry(name, place, self.path(name)) for name, place in zip(names, places, strict=False)
        ]

    def check_free(self, name: str) -> None:
        """Raises when a template cannot be stored under this name."""
        check_name(name)
        if self.path(name).exists():
            raise FheCompileError(
                "template-exists",
                f"there is a template {name} already",
                node=str(self.folder),
                hint="choose another name, or remove it first",
            )

    def add(self, entry: Entry, placed: Any) -> None:
        """Stores a template that has been brought to its place; call it under `changing`."""
        self.check_free(entry.name)
        self.files.write(entry, placed)

    def remove(self, name: str) -> None:
        """Deletes a template; the others stay as they are."""
        with self.changing():
            self._existing(name).unlink()

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """Keeps other processes from changing the gallery."""
        make_folder(self.folder, "--gallery")
        with open(self.folder / LOCK, "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def path(self, name: str) -> Path:
        """The file of a template."""
        return self.folder / f"{name}{SUFFIX}"

    def _existing(self, name: str) -> Path:
        """The file of a template that is there; what is no name is not taken for a path."""
        path = self.path(name)
        with contextlib.suppress(FheCompileError):
            check_name(name)
            if path.exists():
                return path
        raise FheCompileError(
            "no-such-template",
            f"there is no template {name}",
            node=str(self.folder),
            hint="list the names with: python -m runtime gallery",
        )
