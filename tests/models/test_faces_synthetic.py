"""Synthetic faces: seeded, disjoint, and no easy prey for raw pixels."""

from __future__ import annotations

import numpy as np

from models.faces import evaluation, synthetic


def test_same_seed_gives_the_same_bytes() -> None:
    first = synthetic.draw_images(3, 5, range(4), 48)
    assert first.shape == (4, 48, 48, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(synthetic.draw_images(3, 5, range(4), 48), first)
    # An image does not depend on which others are drawn.
    assert np.array_equal(synthetic.draw_images(3, 5, range(2, 3), 48)[0], first[2])
    people = synthetic.draw_people(3, 6, 4, 48)
    assert np.array_equal(people[20:], first)


def test_seeds_and_numbers_give_other_people() -> None:
    people = [synthetic.draw_identity(seed, k) for seed in (0, 1) for k in range(50)]
    latents = np.array([person.latent for person in people])
    assert np.abs(latents).max() <= 2
    apart = np.linalg.norm(latents[:, None] - latents, axis=2) + 1e3 * np.eye(len(people))
    # Two of 32 clipped normal numbers are about 7.7 apart.
    assert apart.min() > 4
    assert abs(np.corrcoef(latents)[np.triu_indices(100, 1)].mean()) < 0.02


def test_people_keep_their_looks_and_views_differ() -> None:
    shots = synthetic.draw_images(0, 0, range(6), 32)
    distinct = {shot.tobytes() for shot in shots}
    assert len(distinct) == 6
    # In one and the same view, people differ by far more than noise.
    view = synthetic.draw_view(0, 0, 0)
    one, other = (
        synthetic.render(synthetic.draw_identity(0, k), view, 32).astype(float) for k in (0, 1)
    )
    assert np.abs(one - other).mean() > 10


def test_sizes_show_the_same_picture() -> None:
    person, view = synthetic.draw_identity(0, 1), synthetic.draw_view(0, 1, 0)
    small = synthetic.render(person, view, 32).astype(float)
    large = synthetic.render(person, view, 128).astype(float)
    shrunk = large.reshape(32, 4, 32, 4, 3).mean(axis=(1, 3))
    assert np.abs(shrunk - small).mean() < 8


def test_field_interpolates_its_grid() -> None:
    grid = np.array([[[0.0], [1.0]], [[2.0], [3.0]]])
    x = np.array([-1.0, 1.0, -1.0, 0.0, 5.0, -0.5])
    y = np.array([-1.0, -1.0, 1.0, 0.0, 5.0, -1.0])
    # 3 t^2 - 2 t^3 at t = 1/4 is 5/32.
    found = synthetic.sample_field(grid, x, y)[:, 0]
    np.testing.assert_allclose(found, [0, 1, 2, 1.5, 3, 5 / 32], rtol=0, atol=1e-15)


def test_pairs_alternate_and_raw_pixels_do_not_verify() -> None:
    pairs = synthetic.synthetic_pairs(1, 40, 4, 32, 400)
    assert pairs.same.tolist() == [True, False] * 200
    people = pairs.pairs // 4
    assert np.array_equal(people[:, 0] == people[:, 1], pairs.same)
    assert (pairs.pairs[:, 0] != pairs.pairs[:, 1]).all()
    pixels = np.stack([pairs.image(k) for k in range(160)]).reshape(160, -1) / 127.5 - 1
    scores = evaluation.cosine_scores(pixels[pairs.pairs[:, 0]], pixels[pairs.pairs[:, 1]])
    assert evaluation.verify(scores, pairs.same).accuracy < 0.65
    # Not for lack of a difference: same people are a little nearer than chance.
    assert evaluation.equal_error_rate(scores, pairs.same) < 0.47
