"""The plans a server offers, and how large what belongs to them may be.

evaluation keys   1.1 * (keys any plan of these parameters lists) * key bytes + 64 MiB
inputs            1.1 * ciphertexts of a batch * 64 batches * ciphertext bytes + 1 MiB

Beside its evaluations, a job that enrols takes the time of the dearest placement for each template,
one that compares that of matching as many ciphertexts as hold the templates.

A file has a few kilobytes of names and checksums more than its polynomials.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec

from fhecompile.errors import FheCompileError
from fhecompile.plan import Plan
from fhecompile.plan.files import write_atomically
from fhecompile.plan.schema import ParametersInfo
from fhecompile.plan.summary import summarise
from runtime.ciphertext_files import part_levels
from runtime.costs import evaluation_threads, find_costs, machine_table
from runtime.gallery.programs import (
    check_template_plan,
    match_program,
    place_program,
    places_of,
)
from runtime.key_stages import RELINEARISATION
from runtime.keys import automorphism_indices
from runtime.service.folder import ServiceFolder

MOST_BATCHES = 64
OVERHEAD = 1.1
KEYS_MARGIN, INPUTS_MARGIN = 64 << 20, 1 << 20


@dataclass(frozen=True)
class GalleryTimes:
    """Predicted seconds: of placing a template, of a comparison, and of it for each ciphertext.

    A ciphertext holds `places` templates.
    """

    place: float
    probe: float
    ciphertext: float
    places: int


@dataclass(frozen=True, eq=False)
class OfferedPlan:
    """A plan on offer.

    Args:
        plan: the plan.
        path: the server's own copy of its file.
        seconds: predicted for a batch.
        gallery: predicted times of a plan that gives templates; None: it gives none.
        keys: names of the evaluation keys it needs.
        keys_limit: bytes of a file of evaluation keys at most.
        inputs_limit: bytes of a file of encrypted inputs at most.
    """

    plan: Plan
    path: Path
    seconds: float
    gallery: GalleryTimes | None
    keys: frozenset[str]
    keys_limit: int
    inputs_limit: int

    @property
    def parameters(self) -> str:
        """SHA-256 of the parameters, which keys are made for."""
        return digest_parameters(self.plan.program.parameters)

    def predict(self, batches: int, kind: str, places: Collection[int]) -> float:
        """Seconds that a job takes; `places` are those of the templates it compares with."""
        seconds = batches * self.seconds
        if self.gallery is not None and kind == "enrol":
            seconds += batches * self.gallery.place
        if self.gallery is not None and kind == "identify":
            ciphertexts = len({place // self.gallery.places for place in places})
            seconds += self.gallery.probe + ciphertexts * self.gallery.ciphertext
        return seconds

    def describe(self) -> dict[str, Any]:
        """What a client may want to know before it makes keys."""
        program, parameters = self.plan.program, self.plan.parameters
        keys = program.keys
        return {
            "plan": self.plan.digest,
            "model": program.model_name,
            "batch": program.batch,
            "inputs": [{"name": t.name, "shape": t.shape} for t in program.inputs],
            "outputs": [{"name": t.name, "shape": t.shape} for t in program.outputs],
            "parameters": msgspec.structs.asdict(program.parameters),
            "keys": {
                "rotations": len(keys.rotations),
                "conjugation": keys.conjugation,
                "relinearisation": keys.relinearisation,
                "bytes": len(self.keys) * parameters.key_bytes,
            },
            "input_bytes": input_bytes(self.plan),
            "gives_templates": self.gallery is not None,
            "predicted_seconds": self.seconds,
        }


def offer_plans(folder: ServiceFolder, plans: Iterable[Plan]) -> dict[str, OfferedPlan]:
    """The plans by digest, each copied to the folder."""
    costs, _ = find_costs()
    threads, table = evaluation_threads(costs), machine_table(lambda _: None)
    plans = list(plans)
    offered = {}

    def seconds(program: Plan) -> float:
        return summarise(program, 0, threads, table).seconds

    for plan in plans:
        path = folder.path / "plans" / plan.digest
        if not path.exists():
            write_atomically(path, plan.encode(), "--folder")
        alike = [p for p in plans if p.program.parameters == plan.program.parameters]
        count = len(frozenset().union(*map(key_names, alike)))
        offered[plan.digest] = OfferedPlan(
            plan,
            path,
            seconds(plan),
            _gallery_times(plan, seconds),
            key_names(plan),
            round(OVERHEAD * count * plan.parameters.key_bytes) + KEYS_MARGIN,
            round(OVERHEAD * MOST_BATCHES * input_bytes(plan)) + INPUTS_MARGIN,
        )
    return offered


def _gallery_times(plan: Plan, seconds: Callable[[Plan], float]) -> GalleryTimes | None:
    try:
        check_template_plan(plan)
    except FheCompileError:
        return None
    places = places_of(plan)
    one, two = (seconds(match_program(plan, count)) for count in (1, 2))
    return GalleryTimes(
        seconds(place_program(plan, places - 1)), max(0.0, 2 * one - two), two - one, places
    )


def key_names(plan: Plan) -> frozenset[str]:
    """Names of the evaluation keys a plan needs, as their file calls them."""
    names = [*automorphism_indices(plan.parameters, plan.program.keys)]
    return frozenset(names + [RELINEARISATION] * plan.program.keys.relinearisation)


def input_bytes(plan: Plan) -> int:
    """Bytes of a batch of encrypted inputs, of polynomials alone."""
    levels = part_levels(plan, "inputs").values()
    return sum(plan.parameters.ciphertext_bytes(level) for level in levels)


def digest_parameters(parameters: ParametersInfo) -> str:
    """SHA-256 that tells these parameters from others."""
    return sha256(msgspec.json.encode(parameters)).hexdigest()
