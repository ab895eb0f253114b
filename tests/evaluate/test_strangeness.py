"""The distance from the training images, on made-up features of several laboratories."""

import numpy as np

from bloodcell.evaluate.metrics import Floats
from bloodcell.evaluate.strangers import ACCEPTED, find_threshold, fit_distance


def made(n: int, centre: float, seed: int) -> Floats:
    """Features of unit length around a centre in the first of eight channels."""
    features = np.random.default_rng(seed).normal(0, 0.3, (n, 8)) + np.eye(8)[0] * centre
    unit: Floats = features / np.linalg.norm(features, axis=1, keepdims=True)
    return unit


def test_strangers_are_farther_away_than_training_images() -> None:
    known, strange = made(200, 1, 0), made(200, -1, 1)
    weight, bias = fit_distance(known, ["a"] * 200, strange)
    assert (made(100, 1, 2) @ weight + bias < 0).mean() > 0.95
    assert (made(100, -1, 3) @ weight + bias > 0).mean() > 0.95
    distance = known @ weight.astype(np.float64) + bias
    assert find_threshold(distance, ["a"] * 200) == 0


def test_a_constant_feature_gets_no_weight() -> None:
    known, strange = (np.hstack([made(50, c, 0), np.full((50, 1), 0.5)]) for c in (1.0, -1.0))
    weight, _ = fit_distance(known, ["a"] * 50, strange)
    assert abs(weight[-1]) < 1e-6


def test_the_threshold_is_the_mean_over_the_data_sets() -> None:
    known, strange = np.concatenate([made(200, 1, 0), made(100, 0.2, 1)]), made(200, -1, 2)
    datasets = ["a"] * 200 + ["b"] * 100
    weight, bias = fit_distance(known, datasets, strange)
    distance = known @ weight.astype(np.float64) + bias
    each = [np.quantile(part, ACCEPTED) for part in (distance[:200], distance[200:])]
    threshold = find_threshold(distance, datasets)
    assert np.isclose(threshold, np.mean(each))
    assert each[0] < threshold < each[1]  # b is nearer to the pictures without cells


def test_a_large_data_set_does_not_outvote_a_small_one() -> None:
    small, large, strange = made(20, 1, 0), made(200, 0.5, 1), made(100, -1, 2)
    few = fit_distance(np.concatenate([small, large]), ["a"] * 20 + ["b"] * 200, strange)
    copies = np.concatenate([small.repeat(10, 0), large])
    many = fit_distance(copies, ["a"] * 200 + ["b"] * 200, strange)
    # only the scaling of the features, which counts rows, differs
    assert np.corrcoef(few[0], many[0])[0, 1] > 0.9
