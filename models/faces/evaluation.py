"""How well scores or embeddings tell faces apart.

A score s is high for the same person; for two embeddings a and b it is the cosine

    s = a . b / (|a| |b|),    and the squared distance of the normalised ones    d = 2 - 2 s.

10-fold verification accuracy is what InsightFace reports for LFW and its relatives: the pairs are
cut in their order into ten folds; a pair counts as the same person if d < t; for each fold the t of
the grid 0, 0.01, ..., 3.99 (the smallest of the best) is chosen on the other nine, and the accuracy
of the ten folds is averaged. No pair is judged by a threshold it had a part in.

With "accept if s >= t", over the pairs of different and of the same people,

    FAR(t) = share of different pairs accepted,    TAR(t) = share of same pairs accepted.

Both rise as t falls past each score. `tar_at_far` is the largest TAR(t) with FAR(t) <= the limit;
nothing is interpolated. The equal error rate is FAR = 1 - TAR where the polygon
through the points (FAR, TAR) meets that line.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fhecompile.errors import FheCompileError

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

FOLDS = 10
DISTANCES = np.arange(400) / 100.0
"""InsightFace's grid of thresholds on the squared distance."""


class Verification(NamedTuple):
    """Accuracy of each fold as a share, and the squared distance it was judged by."""

    accuracies: FloatArray
    thresholds: FloatArray

    @property
    def accuracy(self) -> float:
        """Mean over the folds."""
        return float(self.accuracies.mean())

    @property
    def deviation(self) -> float:
        """Standard deviation over the folds, divided by their number (not by one less)."""
        return float(self.accuracies.std())


def normalise(embeddings: ArrayLike) -> FloatArray:
    """Return `embeddings` (n x features) with rows of length 1.

    FheCompileError `embeddings` for another number of axes, and for rows of zeros or not finite.
    """
    rows = np.asarray(embeddings, dtype=np.float64)
    if rows.ndim != 2:
        raise FheCompileError("embeddings", f"embeddings must have 2 axes, not {rows.ndim}")
    lengths = np.linalg.norm(rows, axis=1)
    bad = np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))
    if bad.size:
        raise FheCompileError(
            "embeddings",
            f"{bad.size} of {len(rows)} embeddings are zero or not finite, the first at {bad[0]}",
            hint="a polynomial network overflows on images unlike those it was trained with",
        )
    result: FloatArray = rows / lengths[:, None]
    return result


def cosine_scores(first: ArrayLike, second: ArrayLike) -> FloatArray:
    """Return the n cosines between the rows of two n x features arrays."""
    a, b = normalise(first), normalise(second)
    if a.shape != b.shape:
        raise FheCompileError("embeddings", f"embeddings of {a.shape} and {b.shape} are no pairs")
    result: FloatArray = np.einsum("nf,nf->n", a, b)
    return result


def _read_pairs(scores: ArrayLike, same: ArrayLike) -> tuple[FloatArray, BoolArray]:
    s, labels = np.asarray(scores, dtype=np.float64), np.asarray(same, dtype=np.bool_)
    if s.ndim != 1 or s.shape != labels.shape:
        raise FheCompileError(
            "face-pairs", f"scores of shape {s.shape} do not fit labels of shape {labels.shape}"
        )
    if not np.isfinite(s).all():
        raise FheCompileError("face-pairs", "there are scores that are not finite")
    if labels.all() or not labels.any():
        raise FheCompileError("face-pairs", "pairs of the same and of different people are needed")
    return s, labels


def verify(scores: ArrayLike, same: ArrayLike, folds: int = FOLDS) -> Verification:
    """Return the `folds`-fold accuracy of n cosines and n labels, in the order of the pairs.

    Every fold should hold both kinds of pairs, as the published lists do. FheCompileError
    `face-pairs` for shapes that differ, scores outside [-1, 1] and fewer pairs than folds.
    """
    s, labels = _read_pairs(scores, same)
    if np.abs(s).max() > 1 + 1e-9:
        raise FheCompileError("face-pairs", "scores must be cosines, between -1 and 1")
    if not 2 <= folds <= len(s):
        raise FheCompileError("face-pairs", f"{len(s)} pairs cannot be cut into {folds} folds")
    right = ((2.0 - 2.0 * s)[:, None] < DISTANCES) == labels[:, None]
    accuracies, thresholds = [], []
    for fold in np.array_split(np.arange(len(s)), folds):
        best = int(np.argmax(right.sum(axis=0) - right[fold].sum(axis=0)))
        thresholds.append(DISTANCES[best])
        accuracies.append(right[fold, best].mean())
    return Verification(np.array(accuracies), np.array(thresholds))


def roc_curve(scores: ArrayLike, same: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Return FAR and TAR for a threshold above all scores and at each of the distinct ones.

    Both rise from 0 to 1. Scores may be on any scale.
    """
    s, labels = _read_pairs(scores, same)
    order = np.argsort(-s, kind="stable")
    last = np.append(np.flatnonzero(np.diff(s[order])), len(s) - 1)  # of each distinct score
    accepted_same = np.cumsum(labels[order])[last]
    accepted_different = last + 1 - accepted_same
    far = np.concatenate([[0.0], accepted_different / (~labels).sum()])
    tar = np.concatenate([[0.0], accepted_same / labels.sum()])
    return far, tar


def equal_error_rate(scores: ArrayLike, same: ArrayLike) -> float:
    """Return the rate at which as many different pairs are accepted as same ones rejected."""
    far, tar = roc_curve(scores, same)
    # FAR + TAR - 1 rises strictly from -1 to 1: each distinct score has a pair.
    return float(np.interp(0.0, far + tar - 1.0, far))


def tar_at_far(scores: ArrayLike, same: ArrayLike, limits: ArrayLike) -> FloatArray:
    """Return, per limit on FAR in [0, 1], the largest TAR that keeps it.

    A limit below 1 / (number of different pairs) asks for no false acceptance at all.
    """
    far, tar = roc_curve(scores, same)
    asked = np.asarray(limits, dtype=np.float64)
    if not ((asked >= 0) & (asked <= 1)).all():
        raise FheCompileError("face-pairs", "limits on FAR must be between 0 and 1")
    # 0.1 as given and 1 / 10 as counted may differ in the last bit.
    result: FloatArray = tar[np.searchsorted(far, asked + 1e-12, side="right") - 1]
    return result


def rank_one(
    gallery: ArrayLike, gallery_people: ArrayLike, probes: ArrayLike, probe_people: ArrayLike
) -> float:
    """Return the share of probes whose nearest gallery embedding, by cosine, is of their person.

    Embeddings are n x features with one label per row; people may have several images in the
    gallery. Probes of people who are not in it count as wrong.
    """
    a, b = normalise(gallery), normalise(probes)
    known, asked = np.asarray(gallery_people), np.asarray(probe_people)
    if (len(a), len(b)) != (len(known), len(asked)) or not len(a) or not len(b):
        raise FheCompileError("embeddings", "gallery and probes need one label for each embedding")
    if a.shape[1] != b.shape[1]:
        raise FheCompileError(
            "embeddings", f"gallery has {a.shape[1]} features, probes have {b.shape[1]}"
        )
    return float((known[np.argmax(b @ a.T, axis=1)] == asked).mean())
