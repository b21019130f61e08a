"""How large the files of a plan may be: never smaller than what OpenFHE makes."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from fhecompile.plan import Plan
from fhecompile.plan.schema import KeysInfo
from fhecompile.plan.summary import summarise
from runtime.costs import evaluation_threads, find_costs, machine_table
from runtime.gallery.programs import match_program, places_of
from runtime.keys import generate_automorphism_keys, generate_key_pair
from runtime.serialization import to_bytes
from runtime.service.folder import ServiceFolder
from runtime.service.plans import input_bytes, offer_plans
from tests.support import convolution_plan
from tests.templates import PLAN as TEMPLATES

PLAN = convolution_plan()


@pytest.mark.parametrize(("levels", "digits"), [(1, 2), (3, 1), (3, 2), (4, 1), (6, 1), (11, 2)])
def test_keys_of_any_parameters_fit(levels: int, digits: int) -> None:
    """However many special primes OpenFHE takes, and without the margin for small files."""
    pytest.importorskip("openfhe")
    info = msgspec.structs.replace(PLAN.program.parameters, levels=levels, digits=digits)
    keys = KeysInfo((1,), False, False)
    program = msgspec.structs.replace(PLAN.program, parameters=info, keys=keys)
    plan = Plan(program, PLAN.arrays)
    secret = generate_key_pair(plan.parameters)
    ((_, key),) = generate_automorphism_keys(secret, keys)
    limit = plan.parameters.key_bytes
    assert 0.95 * limit < len(to_bytes(key)) < 1.1 * limit + 4096


def test_predicted_seconds(tmp_path: Path) -> None:
    """Placing is paid for each template, comparing for each ciphertext that holds some."""
    offered = offer_plans(ServiceFolder(tmp_path / "server"), [PLAN, TEMPLATES])
    plain, gallery = offered[PLAN.digest], offered[TEMPLATES.digest]
    assert plain.gallery is None and gallery.gallery is not None
    assert plain.predict(3, "evaluate", []) == 3 * plain.seconds > 0
    assert gallery.predict(2, "evaluate", []) == 2 * gallery.seconds > 0
    placing = gallery.predict(2, "enrol", []) - 2 * gallery.seconds
    assert placing == pytest.approx(2 * gallery.gallery.place) and placing > 0
    places = places_of(TEMPLATES)

    def comparing(*taken: int) -> float:
        return gallery.predict(1, "identify", taken) - gallery.seconds

    for count, taken in ((1, (0, places - 1)), (2, (0, places)), (3, (5, places, 2 * places + 1))):
        threads, table = evaluation_threads(find_costs()[0]), machine_table(lambda _: None)
        expected = summarise(match_program(TEMPLATES, count), 0, threads, table).seconds
        assert comparing(*taken) == pytest.approx(expected)


def test_inputs_fit() -> None:
    pytest.importorskip("openfhe")
    secret = generate_key_pair(PLAN.parameters)
    ciphertext = secret.encrypt(PLAN.vector(0, 0), 30.0)
    assert 0.8 * input_bytes(PLAN) < len(to_bytes(ciphertext)) < 1.1 * input_bytes(PLAN) + 4096
