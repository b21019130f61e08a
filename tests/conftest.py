"""What all tests share.

Golden files are texts beside the tests, rewritten with `pytest --update-golden`. Hypothesis tries
the same examples in every run; `--hypothesis-profile=thorough` looks for new ones.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "quick",
    deadline=None,
    derandomize=True,
    max_examples=50,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "thorough", settings.get_profile("quick"), derandomize=False, max_examples=400
)
settings.load_profile("quick")

# Results must not depend on what has been measured on this machine.
os.environ["FHECOMPILE_COSTS"] = "default"

Golden = Callable[[str, str], None]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="write the golden files instead of comparing"
    )


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    """golden(name, text): the text equals the file `name` in the test's own folder."""

    def compare(name: str, text: str) -> None:
        path = request.path.parent / name
        if request.config.getoption("--update-golden"):
            path.write_text(text, encoding="utf-8")
            return
        expected = path.read_text(encoding="utf-8") if path.exists() else ""
        if text == expected:
            return
        lines = difflib.unified_diff(
            expected.splitlines(), text.splitlines(), name, "found", lineterm=""
        )
        difference = "\n".join(lines)
        pytest.fail(f"differs from {path}; --update-golden accepts it\n{difference}", pytrace=False)

    return compare
