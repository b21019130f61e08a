"""Face verification and identification: values computed by hand, properties of the rates."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhecompile.errors import FheCompileError
from models.faces import evaluation

SCORES = [0.9, 0.8, 0.7, 0.6, 0.4, 0.3]
SAME = [True, True, False, True, False, False]


def test_roc_curve_counts_accepted_pairs() -> None:
    far, tar = evaluation.roc_curve(SCORES, SAME)
    np.testing.assert_allclose(far, np.array([0, 0, 0, 1, 1, 2, 3]) / 3, rtol=0, atol=1e-15)
    np.testing.assert_allclose(tar, np.array([0, 1, 2, 2, 3, 3, 3]) / 3, rtol=0, atol=1e-15)


def test_equal_scores_are_accepted_together() -> None:
    far, tar = evaluation.roc_curve([0.5, 0.5, 0.5, 0.1], [True, False, True, False])
    assert far.tolist() == [0.0, 0.5, 1.0]
    assert tar.tolist() == [0.0, 1.0, 1.0]


def test_equal_error_rate() -> None:
    # At the third score FAR = 1/3 and TAR = 2/3.
    assert evaluation.equal_error_rate(SCORES, SAME) == pytest.approx(1 / 3, abs=1e-15)
    assert evaluation.equal_error_rate([2.0, 1.0], [True, False]) == 0.0
    assert evaluation.equal_error_rate([2.0, 1.0], [False, True]) == 1.0
    # From (0, 0) to (1/2, 1): FAR = 1 - TAR at (1/3, 2/3).
    found = evaluation.equal_error_rate([0.5, 0.5, 0.5, 0.1], [True, False, True, False])
    assert found == pytest.approx(1 / 3, abs=1e-15)


def test_tar_at_far() -> None:
    found = evaluation.tar_at_far(SCORES, SAME, [0.0, 0.33, 1 / 3, 0.5, 1.0])
    np.testing.assert_allclose(found, [2 / 3, 2 / 3, 1, 1, 1], rtol=0, atol=1e-15)
    assert evaluation.tar_at_far([2.0, 1.0], [False, True], 0.0) == 0.0
    ten = np.arange(20.0)
    assert evaluation.tar_at_far(ten, ten % 2 == 0, 3 * 0.1) == pytest.approx(0.3, abs=1e-15)


def test_threshold_comes_from_the_other_folds() -> None:
    # Squared distances 0.205 and 1 in the first fold, 0.615 and 1.4 in the second. The second is
    # right above 0.615 up to 1.4, of which 0.62 is the smallest: right for the first fold as well.
    # The first gives 0.21, which rejects both pairs of the second.
    scores = [0.8975, 0.5, 0.6925, 0.3]
    found = evaluation.verify(scores, [True, False, True, False], folds=2)
    assert found.thresholds.tolist() == [0.62, 0.21]
    assert found.accuracies.tolist() == [1.0, 0.5]
    assert (found.accuracy, found.deviation) == (0.75, 0.25)


def test_a_distance_equal_to_the_threshold_is_rejected() -> None:
    # d = 0.5 exactly; t = 0.5 does not accept it, 0.51 is the first that does.
    found = evaluation.verify([0.75, -1.0] * 2, [True, False] * 2, folds=2)
    assert found.thresholds.tolist() == [0.51, 0.51]
    assert found.accuracy == 1.0


def test_folds_are_cut_in_order_and_the_first_ones_are_longer() -> None:
    # 5 pairs in 2 folds: 3 and 2. Only the first pair is beyond any threshold of the others.
    scores, same = [-1.0, 1.0, 0.0, 1.0, 0.0], [True, True, False, True, False]
    found = evaluation.verify(scores, same, folds=2)
    np.testing.assert_allclose(found.accuracies, [2 / 3, 1.0], rtol=0, atol=1e-15)


def test_ten_folds_of_separated_pairs() -> None:
    random = np.random.default_rng(0)
    same = np.tile([True, False], 300)
    scores = np.where(same, random.uniform(0.5, 0.9, 600), random.uniform(-0.5, 0.2, 600))
    found = evaluation.verify(scores, same)
    assert found.accuracies.tolist() == [1.0] * 10
    # d <= 1 for the same person, d >= 1.6 for different people.
    assert ((found.thresholds > 0.95) & (found.thresholds <= 1.01)).all()
    # Labels that know nothing of the scores: accuracy one half within four standard deviations.
    blind = evaluation.verify(scores, np.random.default_rng(1).permutation(same))
    assert abs(blind.accuracy - 0.5) < 4 * 0.5 / np.sqrt(600)


def test_cosine_scores() -> None:
    found = evaluation.cosine_scores([[3.0, 4.0], [1.0, 0.0]], [[4.0, 3.0], [-2.0, 0.0]])
    np.testing.assert_allclose(found, [0.96, -1.0], rtol=0, atol=1e-15)


def test_rank_one() -> None:
    gallery, people = [[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]], ["a", "b", "a"]
    probes = [[9.0, 1.0], [-1.0, -0.1], [1.0, 2.0], [0.0, 3.0]]
    assert evaluation.rank_one(gallery, people, probes, ["a", "a", "b", "a"]) == 0.75
    assert evaluation.rank_one(gallery, people, probes, ["c", "c", "c", "c"]) == 0.0


pairs = st.lists(
    st.tuples(st.integers(-20, 20).map(lambda k: k / 20), st.booleans()), min_size=4, max_size=40
).filter(lambda rows: len({same for _, same in rows}) == 2)


@given(pairs)
def test_rates_do_not_depend_on_the_scale_or_the_order(rows: list[tuple[float, bool]]) -> None:
    scores, same = np.array([s for s, _ in rows]), np.array([label for _, label in rows])
    error = evaluation.equal_error_rate(scores, same)
    assert 0 <= error <= 1
    assert evaluation.equal_error_rate(np.exp(3 * scores), same) == error
    assert evaluation.equal_error_rate(scores[::-1], same[::-1]) == error
    # Turning scores and labels round exchanges false acceptances and false rejections.
    assert evaluation.equal_error_rate(-scores, ~same) == pytest.approx(error, abs=1e-12)


@given(pairs)
def test_tar_at_far_keeps_its_limit(rows: list[tuple[float, bool]]) -> None:
    scores, same = np.array([s for s, _ in rows]), np.array([label for _, label in rows])
    limits = np.array([0.0, 0.25, 0.5, 1.0])
    found = evaluation.tar_at_far(scores, same, limits)
    for limit, tar in zip(limits, found, strict=True):
        allowed = [
            float((scores[same] >= t).mean())
            for t in [*scores, 2.0]
            if (scores[~same] >= t).mean() <= limit
        ]
        assert tar == pytest.approx(max(allowed), abs=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: evaluation.cosine_scores([[1.0], [0.0]], [[1.0], [1.0]]),
            "1 of 2 embeddings are zero or not finite, the first at 1 [embeddings]\n"
            "  hint: a polynomial network overflows on images unlike those it was trained with",
        ),
        (
            lambda: evaluation.cosine_scores([[np.inf]], [[1.0]]),
            "1 of 1 embeddings are zero or not finite, the first at 0 [embeddings]\n"
            "  hint: a polynomial network overflows on images unlike those it was trained with",
        ),
        (
            lambda: evaluation.normalise([1.0]),
            "embeddings must have 2 axes, not 1 [embeddings]",
        ),
        (
            lambda: evaluation.cosine_scores([[1.0]], [[1.0], [2.0]]),
            "embeddings of (1, 1) and (2, 1) are no pairs [embeddings]",
        ),
        (
            lambda: evaluation.verify([0.5], [True, False]),
            "scores of shape (1,) do not fit labels of shape (2,) [face-pairs]",
        ),
        (
            lambda: evaluation.equal_error_rate([0.5, np.nan], [True, False]),
            "there are scores that are not finite [face-pairs]",
        ),
        (
            lambda: evaluation.roc_curve([0.5, 0.2], [True, True]),
            "pairs of the same and of different people are needed [face-pairs]",
        ),
        (
            lambda: evaluation.verify([0.5, 1.5], [True, False]),
            "scores must be cosines, between -1 and 1 [face-pairs]",
        ),
        (
            lambda: evaluation.verify([0.5, 0.5], [True, False]),
            "2 pairs cannot be cut into 10 folds [face-pairs]",
        ),
        (
            lambda: evaluation.tar_at_far(SCORES, SAME, 1.5),
            "limits on FAR must be between 0 and 1 [face-pairs]",
        ),
        (
            lambda: evaluation.rank_one([[1.0]], ["a"], [[1.0]], []),
            "gallery and probes need one label for each embedding [embeddings]",
        ),
        (
            lambda: evaluation.rank_one([[1.0]], ["a"], [[1.0, 2.0]], ["a"]),
            "gallery has 1 features, probes have 2 [embeddings]",
        ),
    ],
)
def test_errors(call: Any, message: str) -> None:
    with pytest.raises(FheCompileError, match=f"^{re.escape(message)}$"):
        call()
