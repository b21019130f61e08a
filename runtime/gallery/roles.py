"""What is done with a gallery, on files: the server enrols and matches, the client reads scores.

enrol     evaluation.keys, encrypted templates      -> files in the gallery
identify  evaluation.keys, one encrypted template   -> encrypted scores, one per stored template
scores    secret.key, encrypted scores              -> cosines by name
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from fhecompile.errors import FheCompileError
from fhecompile.plan import Plan
from fhecompile.plan.files import check_writable
from runtime.bundle import open_bundle, write_bundle
from runtime.ciphertext_files import count_batches, open_ciphertexts, read_batch
from runtime.client import PartKey, decrypt_outputs
from runtime.costs import evaluation_threads, find_costs
from runtime.gallery.programs import match_program, place_program, places_of
from runtime.gallery.store import Gallery
from runtime.key_files import load_evaluation_keys, load_secret
from runtime.keys import ServerContext
from runtime.machine import MemoryShares
from runtime.serialization import read_ciphertext, to_bytes
from runtime.server import Server

NAMES = "names.json"
_ONE_AT_A_TIME = MemoryShares(cache=0, ahead=0, in_flight=1)  # there are no constants


class Names(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the score of each template is: (ciphertext, place) by name."""

    groups: int
    places: dict[str, tuple[int, int]]


def enrol_file(
    plan: Plan, evaluation_keys: Path, templates: Path, folder: Path, names: Sequence[str]
) -> None:
    """Stores the templates that a plan has made of images; all that fit before the first error.

    Args:
        plan: the plan, compiled with `--match gallery`.
        evaluation_keys: the file evaluation.keys.
        templates: encrypted outputs of the plan.
        folder: the gallery.
        names: one per template.
    """
    with contextlib.ExitStack() as stack:
        context = _keys(stack, plan, evaluation_keys, match_program(plan, 1))
        bundle = stack.enter_context(open_ciphertexts(templates, "outputs", plan, context.key_tag))
        count = count_batches(bundle, plan)
        if len(names) != count or len(set(names)) != count:
            raise FheCompileError(
                "template-name",
                f"there are {count} templates and {len(set(names))} different names",
                node=str(templates),
                hint="give one name for each",
            )
        gallery = Gallery(folder, plan, context.key_tag)
        with gallery.changing():
            for name in names:
                gallery.check_free(name)
            for number, (name, place) in enumerate(zip(names, gallery.free_places(), strict=False)):
                (template,) = read_batch(bundle, number, "outputs", plan, context.context).values()
                gallery.add(name, place, _placed(plan, context, template, place % gallery.places))


def identify_file(
    plan: Plan,
    evaluation_keys: Path,
    probe: Path,
    folder: Path,
    output: Path,
    names: list[str] | None = None,
) -> int:
    """Compares a template with those stored; returns how many they are.

    Args:
        plan: the plan, compiled with `--match gallery`.
        evaluation_keys: the file evaluation.keys.
        probe: encrypted outputs of the plan for one image.
        folder: the gallery.
        output: the file of encrypted scores to write.
        names: the templates to compare with; None: all.
    """
    check_writable(output, "--output")
    with contextlib.ExitStack() as stack:
        context = _keys(stack, plan, evaluation_keys, match_program(plan, 1))
        gallery = Gallery(folder, plan, context.key_tag)
        bundle = stack.enter_context(open_ciphertexts(probe, "outputs", plan, context.key_tag))
        if count_batches(bundle, plan) != 1:
            raise FheCompileError(
                "one-probe",
                f"there are {count_batches(bundle, plan)} templates, one is compared at a time",
                node=str(probe),
                hint="encrypt and evaluate one image",
            )
        (template,) = read_batch(bundle, 0, "outputs", plan, context.context).values()
        sums, places = gallery.sums(context, names)
        if not sums:
            raise FheCompileError(
                "empty-gallery",
                "there is no template to compare with",
                node=str(folder),
                hint="enrol first with: python -m runtime enrol",
            )
        order = {group: number for number, group in enumerate(sums)}
        inputs: dict[PartKey, Any] = {(1, order[group]): total for group, total in sums.items()}
        scores = _evaluate(match_program(plan, len(sums)), context, {(0, 0): template, **inputs})
        where = {
            name: (order[place // gallery.places], place % gallery.places)
            for name, place in places.items()
        }
        with write_bundle(
            output,
            "scores",
            plan.program.parameters,
            context.key_tag,
            plan=plan.digest,
        ) as writer:
            writer.add(NAMES, msgspec.json.encode(Names(len(sums), where)))
            for (_, group), ciphertext in sorted(scores.items()):
                writer.add(f"scores-{group}", to_bytes(ciphertext))
    return len(places)


def read_scores(plan: Plan, secret_key: Path, scores: Path) -> dict[str, float]:
    """Cosines of the probe with stored templates by name, the highest first.

    Args:
        plan: the plan, compiled with `--match gallery`.
        secret_key: the file secret.key.
        scores: encrypted scores.
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
            last = matched.parameters.levels
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
    values = decrypt_outputs(matched, secret, outputs)[0][0]
    found = {name: float(values[where]) for name, where in names.places.items()}
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _keys(
    stack: contextlib.ExitStack, plan: Plan, evaluation_keys: Path, needed: Plan
) -> ServerContext:
    """The evaluation keys that a program needs, released with the stack."""
    context = load_evaluation_keys(needed, evaluation_keys)
    stack.callback(context.release)
    return context


def _placed(plan: Plan, context: ServerContext, template: Any, place: int) -> Any:
    (placed,) = _evaluate(place_program(plan, place), context, {(0, 0): template}).values()
    return placed


def _evaluate(
    program: Plan, context: ServerContext, inputs: dict[PartKey, Any]
) -> dict[PartKey, Any]:
    server = Server(program, context, evaluation_threads(find_costs()[0]), _ONE_AT_A_TIME)
    outputs, _ = server.evaluate(inputs)
    server.constants.close()
    return outputs
