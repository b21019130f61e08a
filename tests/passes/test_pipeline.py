"""Pipeline texts, and the one name every pass has."""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path

import pytest

import passes
from fhecompile.errors import FheCompileError, InternalError
from fhecompile.ir.program import Facts, Pass, PassManager, PassResult, Program
from fhecompile.options import CompileOptions
from fhecompile.pipeline import build_pipeline, class_name, describe_passes, find_pass, pass_names
from passes import BUILT_IN, DEFAULT_PIPELINE, REFRESHED_PIPELINE
from passes.assign_layouts import AssignLayouts
from passes.clean_graph import CleanGraph
from passes.infer_ranges import Calibration
from passes.merge_affine import MergeAffine
from tests.graphs import Builder, matrix

NAMES = ", ".join(BUILT_IN)


def rendered(text: str) -> str:
    with pytest.raises(FheCompileError) as caught:
        build_pipeline(text)
    return caught.value.render()


def test_file_class_and_pipeline_have_one_name() -> None:
    files = {path.stem for path in Path(passes.__file__).parent.glob("*.py")} - {"__init__"}
    assert files == set(BUILT_IN)
    assert len(BUILT_IN) == len(files)
    for name in BUILT_IN:
        module = importlib.import_module(f"passes.{name}")
        kind = getattr(module, "".join(word.capitalize() for word in name.split("_")))
        assert issubclass(kind, Pass)
        assert find_pass(name) is kind
        assert kind.__name__ == class_name(name)
        (made,) = build_pipeline(name)
        assert made == kind()
        assert made.name == name
        assert dataclasses.is_dataclass(kind)
        with pytest.raises(dataclasses.FrozenInstanceError):
            made.option = 1
        test = Path(__file__).parent / f"test_{name}.py"
        assert test.exists()


def test_default_pipeline_uses_every_pass_and_lacks_no_fact() -> None:
    names = [p.name for p in build_pipeline()]
    assert ",".join(names) == DEFAULT_PIPELINE
    refreshed = build_pipeline("", REFRESHED_PIPELINE)
    assert ",".join(p.name for p in refreshed) == REFRESHED_PIPELINE
    assert {*names, *(p.name for p in refreshed)} == set(BUILT_IN)
    for pipeline in (build_pipeline(), refreshed):
        given = {kind for p in pipeline for kind in p.gives}
        from_outside = {kind for p in pipeline for kind in p.needs} - given
        PassManager(pipeline).check(from_outside)
        assert {kind.__name__ for kind in from_outside} == {"Calibration", "ModelIdentity"}


def test_options_are_read_by_the_type_of_their_default() -> None:
    text = " clean_graph , merge_affine{growth=2; allowance=7},assign_layouts{complex=False}"
    assert build_pipeline(text) == [
        CleanGraph(),
        MergeAffine(growth=2.0, allowance=7),
        AssignLayouts(complex=False),
    ]


def test_plus_changes_options_of_the_default_pipeline() -> None:
    changed = build_pipeline("+assign_layouts{complex=false},merge_affine{growth=2.5}")
    assert [p.name for p in changed] == DEFAULT_PIPELINE.split(",")
    for before, after in zip(build_pipeline(), changed, strict=True):
        if after.name == "assign_layouts":
            assert after == AssignLayouts(complex=False)
        elif after.name == "merge_affine":
            assert after == MergeAffine(growth=2.5)
        else:
            assert after == before


@pytest.mark.parametrize("text", ["Clean_graph", "clean_graph,,emit_plan", "clean_graph{a", "a b"])
def test_syntax_errors(text: str) -> None:
    places = {"clean_graph,,emit_plan": ",emit_plan"}
    assert rendered(text) == (
        f"cannot read the pipeline at {places.get(text, text)!r} [pipeline-syntax]\n"
        "  hint: write name{option=value},name,..."
    )


@pytest.mark.parametrize(
    "text", ["fold_batch_norm", "+fold_batch_norm", "clean_graph,fold_batch_norm"]
)
def test_unknown_pass(text: str) -> None:
    assert rendered(text) == (
        f"there is no pass fold_batch_norm [unknown-pass]\n  hint: the passes are: {NAMES}"
    )


def test_unknown_option() -> None:
    assert rendered("merge_affine{grow=2}") == (
        "the pass merge_affine has no option grow [pipeline-option]\n"
        "  hint: its options are: growth, allowance, repeat"
    )
    assert rendered("+clean_graph{deep=true}") == (
        "the pass clean_graph has no option deep [pipeline-option]\n  hint: its options are: none"
    )


@pytest.mark.parametrize(
    ("option", "value", "default"),
    [
        ("merge_affine{growth=much}", "much", "growth of the pass merge_affine|4.0"),
        ("merge_affine{allowance=1.5}", "1.5", "allowance of the pass merge_affine|12582912"),
        ("assign_layouts{complex=1}", "1", "complex of the pass assign_layouts|True"),
        ("assign_layouts{complex}", "", "complex of the pass assign_layouts|True"),
    ],
)
def test_value_of_the_wrong_type(option: str, value: str, default: str) -> None:
    name, shown = default.split("|")
    assert rendered(option) == (
        f"{value!r} is no value for the option {name} [pipeline-option]\n"
        f"  hint: its default is {shown}"
    )


def test_order_is_checked_before_anything_runs() -> None:
    manager = PassManager(build_pipeline("clean_graph,balance_quadratics"))
    with pytest.raises(FheCompileError) as caught:
        manager.run(Program(Builder().graph, CompileOptions()))
    assert caught.value.render() == (
        "the pass balance_quadratics needs Ranges, which no earlier pass gives [pipeline-order]\n"
        "  hint: reorder the passes, or leave --passes out for the default pipeline"
    )
    assert manager.records == []


def test_records_and_internal_errors_name_the_passes() -> None:
    @dataclasses.dataclass(frozen=True)
    class Broken(Pass):
        def run(self, program: Program) -> PassResult:
            raise InternalError("it broke")

    b = Builder()
    b.input("x", 1, 4)
    program = Program(
        b.output(b.affine("map", {"x": matrix(4, 4)})),
        CompileOptions(),
        Facts([Calibration({})]),
    )
    manager = PassManager([*build_pipeline("clean_graph,fold_batchnorm"), Broken()])
    with pytest.raises(InternalError) as caught:
        manager.run(program)
    assert str(caught.value) == (
        "pass test_pipeline: it broke (passes done: clean_graph, fold_batchnorm)"
    )
    assert [r.name for r in manager.records] == ["clean_graph", "fold_batchnorm"]
    assert not any(r.modified for r in manager.records)


def test_every_pass_is_described() -> None:
    described = {d.name: d for d in describe_passes()}
    assert list(described) == pass_names()
    assert pass_names()[: len(BUILT_IN)] == list(BUILT_IN)
    assert described["merge_affine"].options_text == "{growth=4.0;allowance=12582912;repeat=524288}"
    assert described["clean_graph"].options_text == ""
    assert all(d.text for d in described.values())
