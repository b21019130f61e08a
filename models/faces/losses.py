"""The losses of the face network, in torch.

ArcFace (Deng et al., CVPR 2019, eq. 3): with the angle theta_j between the embedding and the
centre of person j, y the right one, s = 64 and m = 0.5, the cross-entropy of the logits

    s cos(theta_y + m) for y,    s cos(theta_j) for the others.

cos(theta + m) = cos theta cos m - sin theta sin m falls with theta only up to pi - m; from there on
the line cos theta - m sin m takes its place.

Jigsaw, the auxiliary task of CryptoFace (Ao and Boddeti, CVPR 2025): patches have networks of their
own, and should know where they lie. The form here is ours, after Noroozi and Favaro (ECCV 2016):
the features of the P patches are shuffled by a permutation drawn for each image from a fixed set of
K, and a linear layer on the shuffled features is to say which, by cross-entropy. The set is all P!
permutations where these are at most `PERMUTATIONS`; otherwise each next one is, of `CANDIDATES`
random ones, the one that differs in the most places from the nearest already chosen.

The peak penalty (`models/peaks.py`) keeps a polynomial network from overflowing. Its z_l are the
values after the batch norm of the linear term in HerPN layer l: the layer's input in deviations
from its mean.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from models.cryptofacenet import HerPN
from models.peaks import PeakPenalty

PERMUTATIONS = 24
CANDIDATES = 1000
SMALLEST_SINE = 1e-4
PEAK = 5.0
"""Deviations a value may reach at no cost; of a million normal ones the largest reaches it."""


class ArcFace(nn.Module):
    """ArcFace loss of N x features embeddings and N labels below `people`; mean over N."""

    def __init__(self, people: int, features: int, scale: float = 64.0, margin: float = 0.5):
        super().__init__()
        # Short at first, so that the first faces of a person turn their centre: the gradient of a
        # direction is the shorter the longer the vector.
        self.centres = nn.Parameter(0.01 * torch.randn(people, features))
        self.scale, self.margin = scale, margin

    def logits(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Return N x people logits, with the margin on the right one."""
        cosines = functional.linear(
            functional.normalize(embeddings), functional.normalize(self.centres)
        )
        cosine = cosines.gather(1, labels[:, None])
        # The root's slope is infinite at 0.
        sine = (1 - cosine.square()).clamp_min(SMALLEST_SINE**2).sqrt()
        moved = cosine * math.cos(self.margin) - sine * math.sin(self.margin)
        line = cosine - self.margin * math.sin(self.margin)
        moved = torch.where(cosine > -math.cos(self.margin), moved, line)
        return self.scale * cosines.scatter(1, labels[:, None], moved)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(self.logits(embeddings, labels), labels)


def choose_permutations(patches: int, seed: int = 0) -> NDArray[np.int64]:
    """Return at most `PERMUTATIONS` different permutations of `patches` places, one per row."""
    if math.factorial(patches) <= PERMUTATIONS:
        return np.array(list(itertools.permutations(range(patches))), dtype=np.int64)
    random = np.random.default_rng(seed)
    candidates = random.permuted(np.tile(np.arange(patches), (CANDIDATES, 1)), axis=1)
    chosen = [candidates[0]]
    nearest = (candidates != chosen[0]).sum(axis=1)
    while len(chosen) < PERMUTATIONS:
        chosen.append(candidates[np.argmax(nearest)])
        nearest = np.minimum(nearest, (candidates != chosen[-1]).sum(axis=1))
    return np.stack(chosen)


class Jigsaw(nn.Module):
    """Loss of telling the permutation of shuffled patch features; mean over N."""

    permutations: Tensor

    def __init__(self, patches: int, features: int):
        super().__init__()
        self.register_buffer("permutations", torch.from_numpy(choose_permutations(patches)))
        self.head = nn.Linear(patches * features, len(self.permutations))

    def shuffle(self, features: list[Tensor], chosen: Tensor) -> Tensor:
        """Return N x P x features: place p of image n holds patch permutations[chosen[n], p]."""
        stacked = torch.stack(features, dim=1)
        rows = torch.arange(len(stacked), device=stacked.device)[:, None]
        return stacked[rows, self.permutations[chosen]]

    def forward(self, features: list[Tensor], generator: torch.Generator) -> Tensor:
        """Draw the permutations from `generator`, a generator of the CPU."""
        chosen = torch.randint(len(self.permutations), (len(features[0]),), generator=generator)
        chosen = chosen.to(self.permutations.device)
        guesses = self.head(self.shuffle(features, chosen).flatten(1))
        return functional.cross_entropy(guesses, chosen)


def watch_peaks(network: nn.Module) -> PeakPenalty:
    """Return the penalty on the HerPN layers of `network`."""
    norms = [m.bn1 for m in network.modules() if isinstance(m, HerPN)]
    return PeakPenalty(norms, PEAK, lambda _norm, _inputs, z: z)
