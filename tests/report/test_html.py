"""The HTML report: complete, well-formed, escaped, and nothing to load."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import msgspec
import pytest

from fhecompile.ckks.layout import Digit, Layout
from fhecompile.plan import Plan
from fhecompile.plan.summary import summarise
from fhecompile.report.html import html_report, layout_block
from tests.small import compile_small

VOID = {"meta", "br"}


class Checker(HTMLParser):
    """Every element is closed where it ought to be; collects the text of table cells."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.cells: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th", "b"):
            self.cells.append(data)


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return compile_small(tmp_path_factory.mktemp("html"))


def test_complete_and_well_formed(plan: Plan) -> None:
    page = html_report(plan, summarise(plan), 2)
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    assert {"hidden", "baby steps", "ring_dimension", "SetRingDim", "f1", "="} <= set(checker.cells)
    assert "INSECURE" in page
    assert page == html_report(plan, summarise(plan), 2)


def test_nothing_is_loaded(plan: Plan) -> None:
    page = html_report(plan, summarise(plan), 2)
    assert not re.search(r"<script|<link|<img|src=|href=|url\(|@import|https?:", page)


def test_names_are_escaped(plan: Plan) -> None:
    evil = msgspec.structs.replace(plan.program, model_name="<script>alert('x & y')</script>")
    page = html_report(Plan(evil, plan.arrays), summarise(plan), 2)
    assert "<script" not in page and "&lt;script&gt;alert(&#x27;x &amp; y&#x27;)" in page


def test_a_layout_without_bits_is_text() -> None:
    layout = Layout((1, 3, 5), 16, 16, (Digit(1, 1, 3, "slot", 5), Digit(2, 1, 5, "slot", 1)))
    assert "<code>c/1%3*5 l/1%5*1, period 16</code>" in layout_block(0, layout, ["a"])
