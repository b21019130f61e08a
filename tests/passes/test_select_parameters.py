"""Parameters keep the security bound; precision costs primes, and depth has an end."""

from __future__ import annotations

import contextlib
import math
import re
from dataclasses import replace

import numpy as np
import pytest

from fhecompile.ckks.parameters import MAX_LOG_QP, Parameters
from fhecompile.errors import FheCompileError, InternalError
from fhecompile.frontend.calibration import synthetic_calibration
from fhecompile.ir.program import Facts, PassManager, Program
from fhecompile.ir.scales import plan_scales
from fhecompile.ir.tensor import TensorGraph
from fhecompile.ir.work_model import predict_work
from fhecompile.options import CompileOptions
from fhecompile.pipeline import build_pipeline
from passes.infer_ranges import Calibration, Ranges
from passes.select_parameters import DIGIT_WORTH, ScaleChoice, measure_errors
from tests.graphs import FIXED_SCALES, Builder, matrix, run_passes


def squarings(depth: int = 2) -> TensorGraph:
    """`depth` times a map and a square, and a last map."""
    b = Builder()
    b.input("x", 1, 4)
    value = "x"
    for k in range(depth):
        b.affine(f"map{k}", {value: matrix(4, 4, k)})
        value = b.poly(f"square{k}", f"map{k}", 0.0, 0.0, 1.0)
    return b.output(b.affine("last", {value: matrix(2, 4)}))


def select(graph: TensorGraph, options: str = "", **more: object) -> Program:
    return run_passes(graph, "select_parameters", {"select_parameters": options}, **more)


@pytest.mark.parametrize("security_bits", sorted(MAX_LOG_QP))
def test_security_bound_is_kept(security_bits: int) -> None:
    p = select(squarings(1), security_bits=security_bits).facts[Parameters]
    assert not p.insecure
    assert p.security_bits == security_bits
    assert p.log_qp <= MAX_LOG_QP[security_bits][p.ring_dimension]


def test_more_security_needs_a_larger_ring() -> None:
    rings = []
    for bits in sorted(MAX_LOG_QP):
        facts = select(squarings(3), FIXED_SCALES, security_bits=bits).facts
        rings.append(facts[Parameters].ring_dimension)
    assert rings == sorted(rings)
    assert rings[0] < rings[-1]


def test_a_ring_that_is_larger_than_allowed() -> None:
    n = select(squarings()).facts[Parameters].ring_dimension
    assert select(squarings(), f"largest_ring={n}").facts[Parameters].ring_dimension == n
    with pytest.raises(FheCompileError) as caught:
        select(squarings(), f"largest_ring={n // 2}")
    assert caught.value.render() == (
        f"select_parameters: without refreshes the network needs the ring dimension {n}, allowed "
        f"are up to {n // 2} [large-ring]\n"
        "  hint: allow a larger ring, or lower --precision-bits"
    )


def test_a_toy_ring_is_used_only_when_allowed() -> None:
    with pytest.raises(FheCompileError, match="too-deep"):
        select(squarings(), ring_dimension=512)
    p = select(squarings(), ring_dimension=512, insecure_toy=True).facts[Parameters]
    assert p.insecure
    assert p.ring_dimension == 512
    secure = select(squarings(), ring_dimension=1 << 15, insecure_toy=True).facts[Parameters]
    assert not secure.insecure


def test_precision_that_cannot_be_reached() -> None:
    with pytest.raises(FheCompileError) as caught:
        select(squarings(), "prime_bits=20", precision_bits=30)
    text = re.sub(r"reach -?\d+", "reach SOME", str(caught.value))
    assert text == (
        "30 bits of precision are asked for, primes of 20 bits reach SOME "
        "[precision-not-reachable]\n  hint: lower --precision-bits"
    )


def test_too_deep() -> None:
    with pytest.raises(FheCompileError) as caught:
        select(squarings(), ring_dimension=1 << 12)
    assert re.fullmatch(
        re.escape(
            "last: no ring dimension is secure at 128 bits for multiplicative depth 5; "
            "tried 2^12 (PRIMES primes); levels by layer: map0 1, square0 1, map1 1, square1 1, "
            "last 1 [too-deep]\n"
            "  hint: lower --precision-bits, use activations of a lower degree or fewer layers, or "
            "refresh values on the way, without --no-bootstrap"
        ).replace("PRIMES", r"\d+"),
        caught.value.render(),
    )


def test_too_deep_tries_every_ring() -> None:
    with pytest.raises(FheCompileError) as caught:
        select(squarings(20), "activation_bits=58;constant_bits=50", security_bits=256)
    tried = re.findall(r"2\^(\d+) \(\d+ primes\)", caught.value.reason)
    assert tried == [str(k) for k in range(10, 18)]


def test_precision_never_saves_primes() -> None:
    graph, primes = squarings(3), []
    for bits in range(4, 29, 6):
        p = select(graph, ring_dimension=1 << 16, precision_bits=float(bits)).facts[Parameters]
        primes.append(p.levels)
    assert primes == sorted(primes)
    assert primes[0] < primes[-1]


def test_predicted_error_meets_the_precision() -> None:
    for bits in (4.0, 10.0, 16.0):
        facts = select(squarings(), precision_bits=bits, ring_dimension=1 << 15).facts
        choice = facts[ScaleChoice]
        assert 4.0 * choice.predicted_error <= choice.output_range * 2.0**-bits


@pytest.mark.parametrize("place", [0, 39])
def test_errors_are_relative_to_the_largest_output_of_all_samples(place: int) -> None:
    """Noise is measured there too: on the other samples it is hardly amplified."""
    graph, samples = squarings(), np.full((40, 1, 4), 0.01)
    samples[place] = 1.0
    among, alone = (
        run_passes(
            graph, "select_parameters", facts=[Calibration({"x": x})], ring_dimension=1 << 15
        )
        for x in (samples, np.ones((1, 1, 4)))
    )
    found, expected = measure_errors(among), measure_errors(alone)
    assert found.output_range == pytest.approx(expected.output_range, rel=1e-12)
    assert found.output_range == among.facts[ScaleChoice].output_range
    assert 0.5 * expected.noise < found.noise < expected.noise  # rms, over one sample more


def test_scales_can_be_fixed() -> None:
    facts = select(squarings(), "activation_bits=33;constant_bits=21;prime_bits=54").facts
    policy = facts[ScaleChoice].policy
    assert (policy.activation_bits, policy.constant_bits, policy.prime_bits) == (33.0, 21.0, 54)
    assert facts[Parameters].prime_bits == 54


def test_small_primes_are_taken_where_they_make_the_ring_smaller() -> None:
    small = select(squarings()).facts[Parameters]
    whole = select(squarings(), "prime_bits=59").facts[Parameters]
    assert (small.ring_dimension, small.digits) == (1 << 13, 4)
    assert 30 <= small.prime_bits <= small.first_prime_bits < 59 == whole.prime_bits
    assert small.is_secure()
    assert whole.ring_dimension == 1 << 14


def test_of_equal_work_the_largest_primes_are_taken() -> None:
    """One bit more, and the same ring, levels, digits and special primes are not secure."""
    p = select(squarings()).facts[Parameters]
    larger = replace(p, prime_bits=p.prime_bits + 1, first_prime_bits=p.prime_bits + 1)
    assert not larger.is_secure()
    assert not replace(p, first_prime_bits=p.first_prime_bits + 1).is_secure()


def test_scales_fit_the_primes_that_were_chosen() -> None:
    for bits in (6.0, 8.0, 10.0, 14.0):
        facts = select(squarings(3), precision_bits=bits).facts
        p, choice = facts[Parameters], facts[ScaleChoice]
        scales = plan_scales(squarings(3), choice.policy)
        needed = scales.levels(facts[Ranges].largest, p.first_prime_bits)
        assert choice.policy.prime_bits == p.prime_bits
        assert needed <= p.levels
        assert choice.allows(choice.predicted_error)


def test_more_precision_never_takes_smaller_primes_in_one_ring() -> None:
    sizes: dict[int, list[int]] = {}
    for bits in range(4, 17, 2):
        p = select(squarings(), precision_bits=float(bits)).facts[Parameters]
        sizes.setdefault(p.ring_dimension, []).append(p.levels * p.prime_bits)
    assert list(sizes) == sorted(sizes)
    assert len(sizes) > 1
    for found in sizes.values():
        assert found == sorted(found)


def test_a_gallery_has_a_whole_first_prime() -> None:
    b = Builder()
    b.input("x", 1, 4)
    b.affine("map", {"x": matrix(4, 4)})
    graph = b.output(b.poly("square", "map", 0.0, 0.0, 1.0))
    small = select(graph, precision_bits=3.0).facts[Parameters]
    assert small.first_prime_bits < 60
    stored = select(graph, precision_bits=3.0, match="gallery").facts[Parameters]
    assert stored.first_prime_bits == 60


@pytest.mark.parametrize(("n", "q"), [(1 << 13, 36), (1 << 14, 40), (1 << 15, 50)])
@pytest.mark.parametrize("count", [4, 12])
def test_primes_are_as_far_from_their_power_as_is_assumed(n: int, q: int, count: int) -> None:
    """Of the nearest ones on both sides, which are looked for here, the farthest."""
    found: list[int] = []
    step = 2 * n
    for k in range(1, 1 << 12):
        for candidate in ((1 << q) + k * step + 1, (1 << q) - k * step + 1):
            if len(found) < count and _is_prime(candidate):
                found.append(candidate)
    assert len(found) == count
    farthest = max(abs(p - (1 << q)) for p in found)
    assumed = count / 2 * 0.35 * q * step
    assert 0.3 * assumed < farthest < 4.0 * assumed


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_errors_of_primes_double_with_every_square(depth: int) -> None:
    """A map adds delta, which a square doubles before it adds another: e <- 4 (e + 1) + 1."""
    b, value, squared = Builder(), "x", 0.0
    b.input("x", 1, 8)
    weights, exact = np.linspace(0.5, 1.0, 8), np.ones(8)
    for k in range(depth):
        b.scaled(f"map{k}", value, weights)
        value = b.poly(f"square{k}", f"map{k}", 0.0, 0.0, 1.0)
        squared, exact = 4.0 * (squared + 1.0) + 1.0, (exact * weights) ** 2
    samples = Calibration({"x": np.ones((16, 1, 8))})
    program = run_passes(b.output(value), "select_parameters", facts=[samples])
    found = measure_errors(program).primes
    assert found == pytest.approx(math.sqrt(squared * np.mean(exact**2)), rel=0.25)


def test_precision_that_primes_are_too_far_apart_for() -> None:
    """Near 2^59 those of 2^16 slots are 2^-35 of it apart."""
    with pytest.raises(FheCompileError) as caught:
        select(squarings(), ring_dimension=1 << 17, precision_bits=36)
    text = re.sub(r"reach \d\d$", "reach SOME", caught.value.reason)
    assert text == "36 bits of precision are asked for, primes of 59 bits reach SOME"


def _is_prime(candidate: int) -> bool:
    """Fermat's test to a few bases; Carmichael numbers are too rare to matter."""
    return all(pow(base, candidate - 1, candidate) == 1 for base in (2, 3, 5, 7))


def test_digits_can_be_fixed() -> None:
    fixed = select(squarings(), "digits=3", ring_dimension=1 << 15).facts[Parameters]
    assert fixed.digits == 3
    assert fixed.is_secure()


@pytest.mark.parametrize("features", [4, 4_000])
def test_the_least_work_is_chosen(features: int) -> None:
    """Of all secure rings, with the number of digits that suits each best."""
    b = Builder()
    b.input("x", 1, features)
    value = "x"
    for k in range(4):
        b.scaled(f"map{k}", value, np.linspace(0.5, 1.0, features))
        value = b.poly(f"square{k}", f"map{k}", 0.0, 0.0, 1.0)
    graph = b.output(value)

    def work(program: Program) -> float:
        parameters = program.facts[Parameters]
        scales = plan_scales(program.graph, program.facts[ScaleChoice].policy)
        seconds = predict_work(program.graph, scales, parameters)
        return seconds * (1.0 + DIGIT_WORTH * parameters.digits)

    possible = []
    for ring in MAX_LOG_QP[128]:
        for digits in (0, 2):  # 0: as chosen for the ring
            with contextlib.suppress(FheCompileError):  # too small to be secure
                possible.append(select(graph, f"digits={digits}", ring_dimension=ring))
    assert len({program.facts[Parameters] for program in possible}) > 2
    best = min(possible, key=work)
    assert select(graph).facts[Parameters] == best.facts[Parameters]


def test_functions_must_be_fitted_before() -> None:
    b = Builder()
    b.input("x", 1, 4)
    graph = b.output(b.function("f", "x", "tanh"))
    passes = build_pipeline("infer_ranges,select_parameters")
    given = Facts([Calibration(synthetic_calibration(graph))])
    text = "no polynomial stands for the function f: fit_functions"
    with pytest.raises(InternalError, match=f"^pass select_parameters: {text} "):
        PassManager(passes).run(Program(graph, CompileOptions(), given))
