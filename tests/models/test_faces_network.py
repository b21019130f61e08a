"""The shipped face network, trained on synthetic people: verifies unseen ones, stays bounded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from models.faces import evaluation, synthetic
from runtime import face_alignment

PATH = Path(synthetic.__file__).with_name("cryptofacenet4_synthetic.onnx")


@pytest.fixture(scope="module")
def session() -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(PATH), options)


def embed(session: onnxruntime.InferenceSession, images: np.ndarray) -> np.ndarray:
    rows = [session.run(None, {"image": x[None]})[0][0] for x in images]
    return np.array(rows, dtype=np.float64)


def test_file_is_small_and_valid(session: onnxruntime.InferenceSession) -> None:
    assert PATH.stat().st_size < 6_000_000
    onnx.checker.check_model(onnx.load(PATH))
    (image,), (embedding,) = session.get_inputs(), session.get_outputs()
    assert (image.name, image.shape) == ("image", [1, 3, 64, 64])
    assert (embedding.name, embedding.shape) == ("embedding", [1, 256])


def test_unseen_people_are_told_apart(session: onnxruntime.InferenceSession) -> None:
    # Population 0 was trained on; 7 has no one of it.
    pairs = synthetic.synthetic_pairs(7, 30, 3, 64, 300)
    images = np.stack([face_alignment.prepare(pairs.image(k), 64) for k in range(90)])
    embeddings = embed(session, images)
    scores = evaluation.cosine_scores(embeddings[pairs.pairs[:, 0]], embeddings[pairs.pairs[:, 1]])
    assert evaluation.verify(scores, pairs.same).accuracy >= 0.95
    people, first = np.repeat(np.arange(30), 3), np.arange(90) % 3 == 0
    gallery, probes = embeddings[first], embeddings[~first]
    assert evaluation.rank_one(gallery, people[first], probes, people[~first]) >= 0.9


def test_unusual_images_do_not_overflow(session: onnxruntime.InferenceSession) -> None:
    random = np.random.default_rng(0)
    shape = (3, 64, 64)
    flat = [np.full(shape, value) for value in (-1.0, 0.0, 1.0)]
    unusual = [*flat, random.uniform(-1, 1, shape), random.choice([-1.0, 1.0], shape)]
    # Entries of embeddings of faces reach 5.
    assert np.abs(embed(session, np.stack(unusual).astype(np.float32))).max() < 20
