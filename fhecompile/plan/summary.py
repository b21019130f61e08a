r"""What a plan costs, in numbers: counts of the whole program and of every layer.

rotations          ciphertext rotations; conjugations are counted as key switches only
key_switches       evaluation-key products: rotations, conjugations and relinearisations
rotation_keys      distinct rotation offsets; `key_bytes` also counts the keys of conjugation
                   and relinearisation
plaintext_mults    products of a ciphertext and an encoded constant
floor              multiply-accumulates / (2 * slots): a slot holds a complex number, so that no
                   packing needs fewer products for a linear map
slot_utilisation   floor / products, over the linear maps
security_bits      0 for a plan whose parameters do not keep the security bound
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from fhecompile.ckks.cost import operation_seconds
from fhecompile.ckks.cost_table import BUILT_IN, CostTable
from fhecompile.ckks.operations import OPERATIONS, automorphisms
from fhecompile.ckks.parameters import Parameters
from fhecompile.plan.constants import encodings
from fhecompile.plan.plan import Plan
from fhecompile.plan.schema import OperationInfo


@dataclass(frozen=True)
class LayerSummary:
    """One layer: `level` and `ciphertexts` are of the values that leave it."""

    layer: str
    source: str
    op: str
    level: int
    ciphertexts: int
    products: int
    floor: float
    utilisation: float | None
    rotations: int
    key_switches: int
    seconds: float


@dataclass(frozen=True)
class PlanSummary:
    """See the module docstring; `seconds` is the predicted time of a batch.

    `measured` says whether it is from costs measured on this machine or from the built-in ones.
    """

    ring_dimension: int
    security_bits: int
    log_qp: int
    multiplicative_depth: int
    levels: int
    digits: int
    bootstraps: int
    rotations: int
    key_switches: int
    rotation_keys: int
    key_bytes: int
    plaintext_mults: int
    slot_utilisation: float
    plan_bytes: int
    batch: int
    seconds: float
    measured: bool
    layers: tuple[LayerSummary, ...]


def summarise(
    plan: Plan, plan_bytes: int | None = None, threads: int = 1, table: CostTable = BUILT_IN
) -> PlanSummary:
    """The numbers of a plan.

    Args:
        plan: the plan.
        plan_bytes: size of its file; None computes it.
        threads: threads that `seconds` assumes.
        table: costs that `seconds` is predicted from.
    """
    parameters, keys = plan.parameters, plan.program.keys
    operations = plan.program.operations
    layers = _layers(plan, threads, table)
    linear = [layer for layer in layers if layer.utilisation is not None]
    products = sum(layer.products for layer in linear)
    return PlanSummary(
        ring_dimension=parameters.ring_dimension,
        security_bits=0 if parameters.insecure else parameters.security_bits,
        log_qp=parameters.log_qp,
        multiplicative_depth=plan.program.prediction.multiplicative_depth,
        levels=parameters.levels,
        digits=parameters.digits,
        bootstraps=sum(info.op == "refresh" for info in operations),
        rotations=_rotations(operations),
        key_switches=_key_switches(operations),
        rotation_keys=len(keys.rotations),
        key_bytes=keys.count * parameters.key_bytes,
        plaintext_mults=_products(operations),
        slot_utilisation=sum(layer.floor for layer in linear) / products if products else 0.0,
        plan_bytes=len(plan.encode()) if plan_bytes is None else plan_bytes,
        batch=plan.program.batch,
        seconds=sum(layer.seconds for layer in layers),
        measured=table.measured,
        layers=layers,
    )


def openfhe_parameters(parameters: Parameters) -> dict[str, int | str]:
    """OpenFHE's own setters and the values the runtime gives them."""
    security = f"HEStd_{parameters.security_bits}_classic"
    return {
        "SetRingDim": parameters.ring_dimension,
        "SetMultiplicativeDepth": parameters.levels,
        "SetScalingModSize": parameters.prime_bits,
        "SetFirstModSize": parameters.first_prime_bits,
        "SetNumLargeDigits": parameters.digits,
        "SetScalingTechnique": "FIXEDMANUAL",
        "SetSecurityLevel": "HEStd_NotSet" if parameters.insecure else security,
        "SetSecretKeyDist": "UNIFORM_TERNARY",
        "SetCKKSDataType": "COMPLEX",
        "SetBatchSize": parameters.slots,
    }


def describe_plan(plan: Plan, summary: PlanSummary, threads: int) -> dict[str, Any]:
    """A plan as plain values for JSON: its numbers, layers, parameters, signature, predictions."""
    program = plan.program
    numbers = asdict(summary)
    seconds, measured, layers = (numbers.pop(name) for name in ("seconds", "measured", "layers"))
    return {
        "model": program.model_name,
        "model_sha256": program.model_sha256,
        "producer": program.producer,
        "format_version": program.format_version,
        "calibration": program.calibration,
        "insecure": plan.parameters.insecure,
        **numbers,
        "prediction": {
            "evaluate_seconds": seconds,
            "threads": threads,
            "measured_costs": measured,
            "peak_bytes": program.prediction.peak_bytes,
            "error": program.prediction.error,
            "largest_error": {
                "promised": program.prediction.allowed_error,
                "fitted_functions": program.prediction.fitted_error,
                "noise": program.prediction.noise_error,
            },
            "output_range": program.prediction.output_range,
        },
        "inputs": [{"name": t.name, "shape": list(t.shape)} for t in program.inputs],
        "outputs": [{"name": t.name, "shape": list(t.shape)} for t in program.outputs],
        "layers": layers,
        "openfhe": openfhe_parameters(plan.parameters),
    }


def _layers(plan: Plan, threads: int, table: CostTable) -> tuple[LayerSummary, ...]:
    operations, types, parameters = plan.program.operations, plan.types, plan.parameters
    encoded = encodings(plan)
    numbers: list[list[int]] = [[] for _ in plan.program.layers]
    leaving: list[set[int]] = [set() for _ in plan.program.layers]
    for number, info in enumerate(operations):
        numbers[info.layer].append(number)
        for operand in info.inputs:
            if operations[operand].layer != info.layer:
                leaving[operations[operand].layer].add(operand)
    found = []
    for layer, own, out in zip(plan.program.layers, numbers, leaving, strict=True):
        members = [operations[i] for i in own]
        level = max((types[i].level for i in out or own), default=0)
        products = _products(members)
        floor = layer.multiply_accumulates / (2 * parameters.slots)
        seconds = sum(
            operation_seconds(
                *(m.op, [types[k] for k in m.inputs], m.attributes, parameters, table),
                encoded=encoded.get(i, 0),
            )
            for i, m in zip(own, members, strict=True)
        )
        found.append(
            LayerSummary(
                layer=layer.name,
                source=layer.source,
                op=layer.op,
                level=level,
                ciphertexts=len(out) or sum(m.op == "output" for m in members),
                products=products,
                floor=floor,
                utilisation=floor / products if floor and products else None,
                rotations=_rotations(members),
                key_switches=_key_switches(members),
                seconds=seconds / max(1, threads),
            )
        )
    return tuple(found)


def _rotations(operations: Iterable[OperationInfo]) -> int:
    return sum(len(automorphisms(info.op, info.attributes)) for info in operations)


def _key_switches(operations: Iterable[OperationInfo]) -> int:
    return sum(
        max(OPERATIONS[info.op].key_switches, len(automorphisms(info.op, info.attributes)))
        for info in operations
    )


def _products(operations: Iterable[OperationInfo]) -> int:
    return sum(
        len(info.inputs) if info.op == "dot_plain" else int(info.op == "mul_plain")
        for info in operations
    )
