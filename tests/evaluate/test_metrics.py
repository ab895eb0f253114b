import numpy as np
import pytest
from sklearn import metrics as sk

from bloodcell.evaluate.metrics import (
    Sample,
    average_photos,
    compute,
    draw_blocks,
    draw_photos,
    effective_number,
    estimate,
    estimate_mean,
    independent_interval,
    sample_of,
)


def predictions(n_photos: int = 40, copies: int = 6, seed: int = 0) -> Sample:
    """A model that is right about most photographs, whose copies are all alike."""
    generator = np.random.default_rng(seed)
    true = np.repeat(np.arange(n_photos) % 4, copies)
    logits = np.repeat(generator.normal(0, 1.5, (n_photos, 4)), copies, axis=0)
    logits += generator.normal(0, 0.3, logits.shape)
    logits[np.arange(len(true)), true] += 1.5
    probability = np.exp(logits)
    probability /= probability.sum(1, keepdims=True)
    names = [f"photo {place // copies}" for place in range(len(true))]
    return sample_of(true, probability.astype(np.float32).round(3), names)


def test_every_metric_is_that_of_scikit_learn() -> None:
    for sample in (predictions(), average_photos(predictions())):
        true, p = sample.true, sample.probability
        said = p.argmax(1)
        one = {k: v[0] for k, v in compute(sample, np.ones((1, 40))).items()}
        assert one["accuracy"] == pytest.approx(sk.accuracy_score(true, said))
        assert one["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(true, said))
        assert one["macro_f1"] == pytest.approx(sk.f1_score(true, said, average="macro"))
        assert one["log_loss"] == pytest.approx(sk.log_loss(true, p))
        assert one["auc"] == pytest.approx(sk.roc_auc_score(true, p, multi_class="ovr"))
        precision, recall, f1, _ = sk.precision_recall_fscore_support(true, said)
        assert one["precision"] == pytest.approx(precision)
        assert one["recall"] == pytest.approx(recall)
        assert one["f1"] == pytest.approx(f1)
        squares = ((p - np.eye(4)[true]) ** 2).sum(1).mean()
        assert one["brier"] == pytest.approx(squares)


def test_the_mean_of_models_has_the_interval_of_their_photographs() -> None:
    first, second = predictions(), predictions(seed=1)
    alone = estimate(first)["balanced_accuracy"][0]
    assert estimate_mean([first]) == pytest.approx(alone)
    assert estimate_mean([first, first]) == pytest.approx(alone), "copies of a model tell no more"
    both, other = estimate_mean([first, second]), estimate(second)["balanced_accuracy"][0]
    assert both.value == pytest.approx((alone.value + other.value) / 2)
    assert both.low < both.value < both.high


def test_a_weighted_metric_is_that_of_the_repeated_photographs() -> None:
    sample = predictions(12, 3)
    weights = np.random.default_rng(1).integers(1, 4, (5, 12)).astype(float)
    drawn = compute(sample, weights)
    for number, weight in enumerate(weights.astype(int)):
        rows = np.repeat(np.arange(len(sample.true)), weight[sample.photo])
        again = Sample(sample.true[rows], sample.probability[rows], np.arange(len(rows)))
        for name, values in compute(again, np.ones((1, len(rows)))).items():
            assert drawn[name][number] == pytest.approx(values[0], nan_ok=True), name


def test_draws_keep_the_number_of_photographs_of_each_class() -> None:
    classes = np.array([0] * 10 + [1] * 3 + [2])
    weights = draw_photos(classes, seed=0)
    for label, n in ((0, 10), (1, 3), (2, 1)):
        assert weights[:, classes == label].sum(1) == pytest.approx(n)
    assert weights[:, 0].var() > 0
    assert np.array_equal(weights, draw_photos(classes, seed=0))


def test_draws_in_blocks_are_as_good_as_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    classes = predictions().true[::6]
    (whole,) = draw_blocks(classes, seed=0)
    assert np.array_equal(whole, draw_photos(classes, seed=0))
    at_once = estimate(predictions())
    monkeypatch.setattr("bloodcell.evaluate.metrics._DRAWN", 40 * 300)
    blocks = list(draw_blocks(classes, seed=0))
    assert [len(block) for block in blocks] == [*[300] * 6, 200]
    assert len(np.unique(np.concatenate(blocks), axis=0)) == 2000, "blocks repeat each other"
    in_blocks = estimate(predictions())
    for name in ("accuracy", "auc", "log_loss"):
        (one,), (other,) = in_blocks[name], at_once[name]
        assert one.value == other.value
        assert tuple(one) == pytest.approx(tuple(other), abs=0.03)


def test_expected_calibration_error_by_hand() -> None:
    p = np.array([[0.7, 0.3], [0.7, 0.3], [0.7, 0.3], [0.05, 0.95]])
    sample = Sample(np.array([0, 0, 1, 1]), p, np.arange(4))
    expected = 3 / 4 * abs(0.7 - 2 / 3) + 1 / 4 * abs(0.95 - 1)
    assert compute(sample, np.ones((1, 4)))["ece"][0] == pytest.approx(expected)


def test_intervals_hold_the_truth() -> None:
    """Photographs whose copies are right or wrong together; the truth is the mean over all."""
    generator = np.random.default_rng(0)
    truth, n_photos, copies, held, naive, rounds = 0.8, 72, 30, 0, 0, 300
    photo = np.repeat(np.arange(n_photos), copies)
    true = photo % 4
    for number in range(rounds):
        chance = generator.beta(0.8, 0.2, n_photos)  # mean .8: most photographs all or nothing
        right = generator.random(len(photo)) < chance[photo]
        said = np.where(right, true, (true + 1) % 4)
        sample = Sample(true, np.eye(4)[said] * 0.97 + 0.0075, photo)
        interval = estimate(sample, number, draws=400)["accuracy"][0]
        held += interval.low <= truth <= interval.high
        low, high = independent_interval(int(right.sum()), len(right))
        naive += low <= truth <= high
    assert 0.90 <= held / rounds <= 0.98
    assert naive / rounds < 0.6  # what the interval for independent files is worth


def test_the_independent_interval_is_wilsons() -> None:
    assert independent_interval(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert independent_interval(10, 10)[1] == pytest.approx(1)


def test_the_effective_number_of_images() -> None:
    assert effective_number(["p", "q", "r"]) == 3
    assert effective_number(["p"] * 5 + ["q"] * 5) == 2
    assert effective_number(["p"] * 9 + ["q"]) == 100 / 82
