"""Parameters of refreshed networks keep the security bound and have the primes that they take."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache

import pytest

from fhecompile.ckks.bootstrap import Bootstrap
from fhecompile.ckks.noise import PEAK_TO_RMS
from fhecompile.ckks.parameters import MAX_LOG_QP, Parameters
from fhecompile.errors import FheCompileError
from fhecompile.ir.program import Program
from fhecompile.ir.scales import SLACK_BITS, ScalePlan, latest_inputs, plan_scales
from fhecompile.ir.tensor import Refresh
from fhecompile.ir.work_model import predict_work
from fhecompile.options import CompileOptions
from passes import REFRESHED_PIPELINE
from passes.infer_ranges import Ranges
from passes.select_parameters import ScaleChoice
from passes.select_refreshes import SelectRefreshes
from tests.graphs import Builder, matrix, of_kind, run_passes


@cache
def placed(depth: int = 2, features: int = 4) -> Program:
    """`depth` times a map and a relu, and a last map, with their refreshes."""
    b = Builder()
    b.input("x", 1, features)
    value = "x"
    for k in range(depth):
        b.affine(f"map{k}", {value: matrix(features, features, k)})
        value = b.function(f"relu{k}", f"map{k}", "relu")
    graph = b.output(b.affine("last", {value: matrix(2, features)}))
    passes = {"fit_refreshes": "terms=27", "choose_polynomials": "degree=0"}
    return run_passes(
        graph, "place_refreshes", passes, pipeline=REFRESHED_PIPELINE, precision_bits=4
    )


def select(given: Program, p: SelectRefreshes | None = None, **options: object) -> Program:
    """With 6 bits unless the options say more."""
    chosen = CompileOptions(**{"precision_bits": 6, **options})  # type: ignore[arg-type]
    return (p or SelectRefreshes()).run(replace(given, options=chosen)).program


def refusal(given: Program, p: SelectRefreshes | None = None, **options: object) -> str:
    with pytest.raises(FheCompileError) as caught:
        select(given, p, **options)
    return caught.value.render()


def scales_of(program: Program) -> ScalePlan:
    return plan_scales(program.graph, program.facts[ScaleChoice].policy)


@pytest.mark.parametrize(
    ("security_bits", "ring"), [(128, 1 << 16), (192, 1 << 16), (256, 1 << 17)]
)
def test_security_bound_is_kept(security_bits: int, ring: int) -> None:
    p = select(placed(), security_bits=security_bits).facts[Parameters]
    assert p.is_secure() and not p.insecure
    assert (p.security_bits, p.ring_dimension) == (security_bits, ring)
    assert p.log_qp < MAX_LOG_QP[security_bits][ring]


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("chosen", [SelectRefreshes(), SelectRefreshes(encode_levels=4)])
def test_levels_are_those_that_the_scales_take(depth: int, chosen: SelectRefreshes) -> None:
    program = select(placed(depth), chosen)
    p, choice = program.facts[Parameters], program.facts[ScaleChoice]
    assert p.bootstrap is not None
    scales = scales_of(program)
    assert p.levels == scales.levels(program.facts[Ranges].largest, p.first_prime_bits)
    assert p.first_prime_bits == p.prime_bits + 1
    assert choice.policy.prime_bits == p.prime_bits
    assert choice.policy.activation_bits == p.prime_bits - SLACK_BITS
    assert choice.policy.bootstrap == p.bootstrap
    terms = {node.terms for node in of_kind(program.graph, Refresh)}
    assert terms == {p.bootstrap.terms}
    deepest = max(scales.lifts[node.name].level for node in of_kind(program.graph, Refresh))
    assert deepest <= p.deepest_operand


def test_options_are_obeyed() -> None:
    fixed = SelectRefreshes(prime_bits=45, digits=4, encode_levels=2, decode_levels=4)
    p = select(placed(), fixed).facts[Parameters]
    assert (p.prime_bits, p.first_prime_bits, p.digits) == (45, 46, 4)
    assert p.bootstrap is not None
    assert (p.bootstrap.encode_levels, p.bootstrap.decode_levels) == (2, 4)
    assert p.is_secure()
    assert select(placed(), ring_dimension=1 << 17).facts[Parameters].ring_dimension == 1 << 17


def test_the_remark() -> None:
    options = CompileOptions(ring_dimension=2048, insecure_toy=True)
    p = SelectRefreshes(digits=3, encode_levels=2, decode_levels=2)
    result = p.run(replace(placed(), options=options))
    text = re.sub(r"error \S+$", "error SOME", "".join(result.remarks))
    assert text == (
        "N = 2^11, 21 primes of 50 bits, 3 digits, log QP 1521; 2 refreshes of 2 and 2 levels to "
        "level 17, predicted error SOME"
    )


def test_a_toy_ring_is_used_only_when_allowed() -> None:
    assert "[too-deep]" in refusal(placed(), ring_dimension=2048)
    p = select(placed(), ring_dimension=2048, insecure_toy=True).facts[Parameters]
    assert p.insecure and p.ring_dimension == 2048
    secure = select(placed(), ring_dimension=1 << 16, insecure_toy=True).facts[Parameters]
    assert not secure.insecure and secure.is_secure()


@pytest.mark.parametrize("features", [4, 256])
def test_the_cheapest_predicted_is_taken(features: int) -> None:
    """Of all digits and transforms that are possible at these primes, with one prime size."""

    def work(program: Program) -> float:
        p = program.facts[Parameters]
        start = latest_inputs(program.graph, scales_of(program), program.facts[Ranges].largest, p)
        sunk = plan_scales(program.graph, program.facts[ScaleChoice].policy, start)
        return predict_work(program.graph, sunk, p)

    given = placed(1, features)
    best = select(given, SelectRefreshes(prime_bits=44), ring_dimension=1 << 16)
    others = []
    for digits in (2, 3, 4):
        for levels in (2, 3, 4):
            p = SelectRefreshes(44, digits, levels, levels)
            others.append(select(given, p, ring_dimension=1 << 16))
    assert len({other.facts[Parameters] for other in others}) == 9
    costs = [work(other) for other in others]
    assert work(best) <= min(costs) < max(costs)


def test_of_equal_work_the_largest_primes_are_taken() -> None:
    """One bit more, and the same ring, levels, digits and special primes are not secure."""
    p = select(placed()).facts[Parameters]
    larger = Parameters(
        p.ring_dimension,
        p.levels,
        p.prime_bits + 1,
        p.first_prime_bits + 1,
        p.digits,
        p.security_bits,
        bootstrap=p.bootstrap,
    )
    assert not larger.is_secure() or larger.special_primes > p.special_primes


def test_predicted_error_meets_the_precision() -> None:
    for bits in (4.0, 6.0):
        choice = select(placed(), precision_bits=bits).facts[ScaleChoice]
        noise = PEAK_TO_RMS * choice.predicted_error
        assert choice.predicted_error > 0.0
        assert noise + choice.fitted_error <= choice.output_range * 2.0**-bits


def test_precision_that_cannot_be_reached() -> None:
    assert refusal(placed(), precision_bits=20.0, activation_error=0.05) == (
        "20 bits of precision are asked for, refreshes reach 17 [precision-not-reachable]\n"
        "  hint: lower --precision-bits"
    )


def test_too_deep() -> None:
    assert refusal(placed(), SelectRefreshes(encode_levels=30), ring_dimension=1 << 16) == (
        "no ring dimension is secure at 128 bits for the 49 primes that refreshes and what is "
        "between two of them take [too-deep]\n"
        "  hint: make the network shallower between two activations"
    )


def test_without_refreshes_it_is_a_leveled_network() -> None:
    b = Builder()
    b.input("x", 1, 4)
    b.affine("map", {"x": matrix(4, 4)})
    graph = b.output(b.poly("square", "map", 0.0, 0.0, 1.0))
    ring = {"ring_dimension": 1 << 14}
    leveled = run_passes(graph, "select_parameters", **ring).facts  # type: ignore[arg-type]
    passes = {"choose_polynomials": "degree=0"}
    given = run_passes(graph, "place_refreshes", passes, pipeline=REFRESHED_PIPELINE)
    refreshed = select(given, precision_bits=8, **ring).facts
    assert refreshed[Parameters] == leveled[Parameters]
    assert refreshed[Parameters].bootstrap is None
    assert refreshed[ScaleChoice].policy == leveled[ScaleChoice].policy


def test_results_are_at_one_level_whatever_the_depth() -> None:
    p = SelectRefreshes(encode_levels=3, decode_levels=3)
    found = [select(placed(depth), p).facts[Parameters].bootstrap for depth in (1, 2)]
    assert found == [Bootstrap(3, 3, 27)] * 2


@pytest.mark.parametrize(
    ("chosen", "text"),
    [
        (SelectRefreshes(encode_levels=-1), "encode_levels is -1, allowed are 1 to 6, and 0 for"),
        (SelectRefreshes(decode_levels=7), "decode_levels is 7, allowed are 1 to 6, and 0 for"),
        (SelectRefreshes(prime_bits=60), "prime_bits is 60, allowed are 20 to 59, and 0 for"),
        (SelectRefreshes(digits=-1), "digits is -1, allowed are 1 and more, and 0 for"),
    ],
)
def test_options_out_of_range(chosen: SelectRefreshes, text: str) -> None:
    with pytest.raises(FheCompileError) as caught:
        chosen.requires(placed())
    assert caught.value.render() == f"select_refreshes: {text} any [option-value]"
