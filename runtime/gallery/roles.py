"""What is done with a gallery, on files: the server enrols and matches, the client reads scores.

enrol     evaluation.keys, encrypted images or templates  -> files in the gallery
identify  evaluation.keys, one of them                    -> encrypted scores, one per template
scores    secret.key, encrypted scores                    -> cosines by name

Images are evaluated first, by the same process, so that the keys are read once. A gallery is a
folder, or a list of files whose names and places someone else keeps (`runtime.gallery.templates`).
Progress is judged by predicted costs: of the evaluations, placements and comparisons.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec

from fhecompile.errors import FheCompileError
from fhecompile.plan import Plan
from fhecompile.plan.files import check_writable
from fhecompile.plan.summary import summarise
from runtime.bundle import Bundle, find_kind, open_bundle, write_bundle
from runtime.ciphertext_files import Direction, count_batches, open_ciphertexts, read_batch
from runtime.client import PartKey, decrypt_outputs
from runtime.costs import evaluation_threads, find_costs
from runtime.gallery.programs import match_program, output_type, place_program, places_of
from runtime.gallery.store import Gallery
from runtime.gallery.templates import Entry, TemplateFiles, check_names, check_probe
from runtime.inputs import RangeReport, check_outputs
from runtime.key_files import load_evaluation_keys, load_secret
from runtime.keys import ServerContext
from runtime.machine import MemoryShares
from runtime.roles import evaluate_bundle, evaluation_memory
from runtime.serialization import read_ciphertext, to_bytes
from runtime.server import Server
from runtime.session import part_of

Progress = Callable[[float], None]
NAMES = "names.json"
_ONE_AT_A_TIME = MemoryShares(cache=0, ahead=0, in_flight=1)  # there are no constants


class Names(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the score of each template is: (ciphertext, place) by name."""

    groups: int
    places: dict[str, tuple[int, int]]


def enrol_file(
    plan: Plan,
    evaluation_keys: Path,
    encrypted: Path,
    gallery: Path | Sequence[Entry],
    names: Sequence[str] = (),
    *,
    progress: Progress | None = None,
) -> None:
    """Stores templates; all before the first error.

    Args:
        plan: the plan, compiled with `--match gallery`.
        evaluation_keys: the file evaluation.keys.
        encrypted: encrypted inputs of the plan, or its encrypted outputs.
        gallery: a folder; or what each template is to be stored as.
        names: one per template, for a folder.
        progress: called with the share that is done.
    """
    with contextlib.ExitStack() as stack:
        source = _Source.open(stack, plan, evaluation_keys, encrypted)
        context = source.context
        if isinstance(gallery, Path):
            folder = Gallery(gallery, plan, context.key_tag)
            check_names(names, source.count, source.what, str(encrypted))
            folder.free_entries(names)  # before anything is evaluated
        else:
            check_names([e.name for e in gallery], source.count, source.what, str(encrypted))
        placing = _seconds(place_program(plan, places_of(plan) - 1)) * source.count
        templates = source.templates(part_of(progress, 0, source.seconds, source.seconds + placing))
        if isinstance(gallery, Path):
            stack.enter_context(folder.changing())
            entries, add = folder.free_entries(names), folder.add
        else:
            entries, add = list(gallery), TemplateFiles(plan, context.key_tag).write
        for number, entry in enumerate(entries):
            program = place_program(plan, entry.place % places_of(plan))
            (placed,) = _evaluate(program, context, {(0, 0): templates(number)}).values()
            add(entry, placed)
            if progress is not None:
                share = (number + 1) / source.count
                progress((source.seconds + share * placing) / (source.seconds + placing))


def identify_file(
    plan: Plan,
    evaluation_keys: Path,
    encrypted: Path,
    gallery: Path | Sequence[Entry],
    output: Path,
    names: Sequence[str] | None = None,
    *,
    progress: Progress | None = None,
) -> int:
    """Compares a template with those stored; returns how many they are.

    Args:
        plan: the plan, compiled with `--match gallery`.
        evaluation_keys: the file evaluation.keys.
        encrypted: encrypted inputs of the plan for one image, or its encrypted outputs.
        gallery: a folder; or the templates to compare with.
        output: the file of encrypted scores to write.
        names: the templates of a folder to compare with; None: all.
        progress: called with the share that is done.
    """
    check_writable(output, "--output")
    with contextlib.ExitStack() as stack:
        source = _Source.open(stack, plan, evaluation_keys, encrypted)
        context = source.context
        check_probe(source.count, source.what, str(encrypted))
        files, entries = TemplateFiles(plan, context.key_tag), gallery
        if isinstance(entries, Path):
            entries = Gallery(entries, plan, context.key_tag).entries(names)
        order = {g: n for n, g in enumerate(sorted({e.place // files.places for e in entries}))}
        if not order:
            raise FheCompileError(
                "empty-gallery",
                "there is no template to compare with",
                node=str(gallery) if isinstance(gallery, Path) else "",
                hint="enrol first with: python -m runtime enrol",
            )
        program = match_program(plan, len(order))
        total = source.seconds + _seconds(program)
        probe = source.templates(part_of(progress, 0, source.seconds, total))(0)
        sums = {(1, order[group]): c for group, c in files.sums(context, entries).items()}
        matching = part_of(progress, source.seconds, total - source.seconds, total)
        scores = _evaluate(program, context, {(0, 0): probe, **sums}, matching)
        where = {e.name: (order[e.place // files.places], e.place % files.places) for e in entries}
        with write_bundle(
            output,
            "scores",
            plan.program.parameters,
            context.key_tag,
            plan=plan.digest,
        ) as writer:
            writer.add(NAMES, msgspec.json.encode(Names(len(order), where)))
            for (_, group), ciphertext in sorted(scores.items()):
                writer.add(f"scores-{group}", to_bytes(ciphertext))
    return len(entries)


def read_scores(
    plan: Plan, secret_key: Path, scores: Path, report: RangeReport | None = None
) -> dict[str, float]:
    """Cosines of the probe with stored templates by name, the highest first.

    Args:
        plan: the plan, compiled with `--match gallery`.
        secret_key: the file secret.key.
        scores: encrypted scores.
        report: of a session of many files; warnings it has given are not repeated.
    """
    secret = load_secret(plan, secret_key)
    tag = secret.secret_key.GetKeyTag()
    parameters = plan.program.parameters
    with open_bundle(scores, "scores", parameters, plan=plan.digest, key=tag) as bundle:
        try:
            names = msgspec.json.decode(bundle.read(NAMES), type=Names)
            count = len(bundle.manifest.entries) - 1
            if names.groups != count or count < 1:
                raise ValueError("another number of ciphertexts")
            matched, width = match_program(plan, count), places_of(plan)
            if any(not (0 <= g < count and 0 <= p < width) for g, p in names.places.values()):
                raise ValueError("a place that is none")
            last, _ = output_type(matched)
            outputs = {
                (0, group): read_ciphertext(
                    bundle.read(f"scores-{group}"), str(scores), secret.context, tag, last
                )
                for group in range(count)
            }
        except (KeyError, ValueError) as error:  # msgspec's errors are ValueErrors
            raise FheCompileError(
                "bundle-damaged",
                "the file is damaged: it does not hold scores by name",
                node=str(scores),
                hint="copy it again, or make it again",
            ) from error
    decrypted = decrypt_outputs(matched, secret, outputs)
    check_outputs(matched, decrypted, report)
    values = decrypted[0][0]
    found = {name: float(values[where]) for name, where in names.places.items()}
    return dict(sorted(found.items(), key=lambda item: -item[1]))


@dataclass(frozen=True)
class _Source:
    """Encrypted images or templates, opened, and the evaluation keys."""

    plan: Plan
    context: ServerContext
    bundle: Bundle
    direction: Direction
    memory: MemoryShares

    @staticmethod
    def open(stack: contextlib.ExitStack, plan: Plan, evaluation_keys: Path, path: Path) -> _Source:
        """Both are released with the stack."""
        needed, memory = match_program(plan, 1), _ONE_AT_A_TIME
        direction: Direction = "inputs" if find_kind(path) == "inputs" else "outputs"
        if direction == "inputs":
            # Among the plan's keys are those of the other programs.
            needed, memory = plan, evaluation_memory(plan)
        context = load_evaluation_keys(needed, evaluation_keys)
        stack.callback(context.release)
        bundle = stack.enter_context(open_ciphertexts(path, direction, plan, context.key_tag))
        return _Source(plan, context, bundle, direction, memory)

    @property
    def count(self) -> int:
        return count_batches(self.bundle, self.plan)

    @property
    def what(self) -> str:
        return "images" if self.direction == "inputs" else "templates"

    @cached_property
    def seconds(self) -> float:
        """Predicted for the evaluation of all images; only ratios of such times matter."""
        return _seconds(self.plan) * self.count if self.direction == "inputs" else 0.0

    def templates(self, progress: Progress | None) -> Callable[[int], Any]:
        """What gives the template of a number; images have been evaluated then."""
        if self.direction == "inputs":
            outputs, _ = evaluate_bundle(
                self.plan, self.context, self.bundle, self.memory, progress=progress
            )
            return lambda number: _single(outputs[number])
        context = self.context.context
        return lambda number: _single(
            read_batch(self.bundle, number, "outputs", self.plan, context)
        )


def _single(parts: dict[PartKey, Any]) -> Any:
    (ciphertext,) = parts.values()
    return ciphertext


def _seconds(program: Plan) -> float:
    return summarise(program, 0).seconds


def _evaluate(
    program: Plan,
    context: ServerContext,
    inputs: dict[PartKey, Any],
    progress: Progress | None = None,
) -> dict[PartKey, Any]:
    server = Server(program, context, evaluation_threads(find_costs()[0]), _ONE_AT_A_TIME)
    try:
        return server.evaluate(inputs, progress)[0]
    finally:
        server.free_constants()
