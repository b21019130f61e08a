"""Ciphertexts on disk: the inputs or outputs of a plan for one or more batches of samples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from fhecompile.errors import FheCompileError
from fhecompile.plan import Plan
from runtime.bundle import Bundle, open_bundle, write_bundle
from runtime.client import PartKey
from runtime.serialization import read_ciphertext, to_bytes

Direction = Literal["inputs", "outputs"]


def write_ciphertexts(
    path: Path,
    direction: Direction,
    plan: Plan,
    key_tag: str,
    batches: Iterable[Mapping[PartKey, Any]],
    samples: int,
) -> None:
    """Writes the ciphertexts of batches, all or none.

    Args:
        path: the file.
        direction: whether they are the plan's inputs or outputs.
        plan: the plan.
        key_tag: the key they are encrypted under.
        batches: by (tensor, part), one mapping per batch; each is written as it is made.
        samples: how many samples they hold; 0: one without an axis of samples.
    """
    with write_bundle(
        path, direction, plan.program.parameters, key_tag, plan=plan.digest, samples=samples
    ) as writer:
        for number, batch in enumerate(batches):
            for key in sorted(batch):
                writer.add(_name(number, key), to_bytes(batch[key]))


def open_ciphertexts(path: Path, direction: Direction, plan: Plan, key_tag: str) -> Bundle:
    """Opens a file of ciphertexts that are to belong to this plan and key."""
    bundle = open_bundle(path, direction, plan.program.parameters, plan=plan.digest, key=key_tag)
    parts, count = part_levels(plan, direction), count_batches(bundle, plan)
    entries = bundle.manifest.entries
    # The number of samples is whatever the file says, so it is not counted up to before this.
    if len(entries) != count * len(parts) or any(
        _name(number, key) not in entries for number in range(count) for key in parts
    ):
        bundle.close()
        raise FheCompileError(
            "wrong-ciphertext",
            f"its ciphertexts are not the {direction} of {count} batches",
            node=str(path),
            hint="encrypt with the very plan that is evaluated",
        )
    return bundle


def count_batches(bundle: Bundle, plan: Plan) -> int:
    """Batches that the samples of a file fill."""
    return -(-max(1, bundle.manifest.samples) // plan.program.batch)


def read_batch(
    bundle: Bundle, number: int, direction: Direction, plan: Plan, context: Any
) -> dict[PartKey, Any]:
    """The ciphertexts of one batch by (tensor, part)."""
    return {
        key: read_ciphertext(
            bundle.read(_name(number, key)),
            f"{bundle.path}: {_name(number, key)}",
            context,
            bundle.manifest.key,
            level,
        )
        for key, level in part_levels(plan, direction).items()
    }


def part_levels(plan: Plan, direction: Direction) -> dict[PartKey, int]:
    """Level of every ciphertext of a plan's inputs or outputs, by (tensor, part)."""
    return {
        (info.attributes["tensor"], info.attributes["part"]): plan.types[number].level
        for number, info in enumerate(plan.program.operations)
        if info.op == direction[:-1]
    }


def _name(batch: int, key: PartKey) -> str:
    return f"batch-{batch}/tensor-{key[0]}/part-{key[1]}"
