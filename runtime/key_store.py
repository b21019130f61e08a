"""Evaluation keys on disk, of which those of the present stage are in memory, and some ahead.

OpenFHE looks keys up in its own maps (`runtime.key_maps`): a change of stage clears this tag's map,
drops the keys that are needed latest, waits for those that are missing and inserts the stage's
again. Meanwhile no operation of this tag may run, for which the executor cares; those of other tags
wait only while the map is changed.

Keys are read by a thread of its own, one at a time, in the order of their use
(`runtime.key_stages`). What it cannot read stops the run where the next stage begins.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fhecompile.plan.schema import KeysInfo
from runtime.bundle import Bundle
from runtime.key_maps import changing_keys, clear_automorphism_keys, insert_automorphism_keys
from runtime.key_stages import KeyStages, list_keys
from runtime.keys import ServerContext
from runtime.serialization import read_automorphism_keys


class KeyStore:
    """The automorphism keys of one tag for one plan; a thread reads them until `close`.

    Args:
        bundle: the opened file, which is closed with this.
        stages: the division of the plan's operations.
        context: OpenFHE's context.
        key_tag: the tag of the keys.
    """

    def __init__(self, bundle: Bundle, stages: KeyStages, context: Any, key_tag: str) -> None:
        self.bundle, self.stages = bundle, stages
        self.context, self.key_tag = context, key_tag
        self._condition = threading.Condition()  # of what follows
        self._held: dict[str, Any] = {}  # handles by name
        self._wanted: list[str] = []
        self._error: BaseException | None = None
        self._closed = False
        self._reader: threading.Thread | None = None

    @property
    def held(self) -> Mapping[str, Any]:
        """Handles of the keys in memory, by name."""
        with self._condition:
            return dict(self._held)

    def enter(self, stage: int) -> None:
        """Puts a stage's keys, and no others, where OpenFHE looks for them.

        Returns when they are there. No operation of this tag may run. Raises what went wrong with
        reading them, also before: another call tries again.
        """
        names = self.stages.keys[stage]
        # The map goes first: it holds what is dropped.
        with changing_keys():
            clear_automorphism_keys(self.context, self.key_tag)
        with self._condition:
            self._wanted = self.stages.wanted(stage)
            for name in self._held.keys() - set(self._wanted):
                del self._held[name]
            self._start_reader()
            self._condition.notify_all()
            while not (self._error or self._closed or self._held.keys() >= set(names)):
                self._condition.wait()
            if self._error is not None:
                error, self._error = self._error, None
                self._wanted = []
                raise error
            if self._closed:
                raise RuntimeError("the keys are closed")
            handles = [self._held[name] for name in names]
        with changing_keys():
            insert_automorphism_keys(self.context, self.key_tag, handles)

    def close(self) -> None:
        """Drops all keys that are held and closes the file; may be called twice."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()
        if self._reader is not None:
            self._reader.join()
        self._held.clear()
        self.bundle.close()

    def _start_reader(self) -> None:
        if self._reader is None:
            self._reader = threading.Thread(target=self._read, name="keys", daemon=True)
            self._reader.start()

    def _read(self) -> None:
        while (name := self._next()) is not None:
            try:
                place = f"{self.bundle.path}: {name}"
                handle = read_automorphism_keys(self.bundle.read(name), place)
            except BaseException as error:
                with self._condition:
                    self._error, self._wanted = error, []
                    self._condition.notify_all()
                continue
            with self._condition:
                if name in self._wanted:  # and not given up while it was read
                    self._held[name] = handle
                    self._condition.notify_all()
            del handle

    def _next(self) -> str | None:
        """Waits for a key to read; None when there will be none."""
        with self._condition:
            while not self._closed:
                for name in self._wanted:
                    if name not in self._held:
                        return name
                self._condition.wait()
            return None


@dataclass(frozen=True, eq=False)
class StagedContext(ServerContext):
    """What a server holds whose automorphism keys are on disk; for one plan, in one run at a time.

    The relinearisation key is in memory all the time.
    """

    store: KeyStore

    @property
    def key_stages(self) -> Sequence[int]:
        return self.store.stages.numbers

    def enter_stage(self, stage: int) -> None:
        self.store.enter(stage)

    def missing_keys(self, keys: KeysInfo) -> list[str]:
        there = self.store.bundle.manifest.entries
        return [name for name in list_keys(keys) if name not in there]

    def release(self) -> None:
        super().release()
        self.store.close()
