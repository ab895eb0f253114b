"""The ranking of labels, on answers that were made up."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bloodcell.audit.doubts import _as_votes
from bloodcell.audit.opinions import Opinion
from bloodcell.evaluate.doubts import Votes, average, likely_wrong, rank

ALL = np.arange(2)


def test_models_are_averaged_with_the_same_weight() -> None:
    label = np.array([0, 1, 1])
    first = Votes(np.array([0, 1]), np.array([[0.9, 0.1], [0.8, 0.2]]), ALL)
    second = Votes(np.array([1]), np.array([[0.4, 0.6]]), ALL)
    means = average([first, second], label, 2)
    assert means.models.tolist() == [1, 2, 0]
    assert means.against.tolist() == [0, 1, 0]
    assert np.allclose(means.probability, np.array([[0.9, 0.1], [0.6, 0.4], [0, 0]]))


def test_a_model_does_not_judge_classes_that_it_does_not_know() -> None:
    label = np.array([0, 2])
    votes = Votes(np.array([0, 1]), np.array([[0.3, 0.7], [0.9, 0.1]]), np.array([2, 0]))
    means = average([votes], label, 3)
    assert means.models.tolist() == [1, 1]
    assert np.allclose(means.probability, [[0.7, 0, 0.3], [0.1, 0, 0.9]])
    assert average([votes], np.array([1, 2]), 3).models.tolist() == [0, 1]


def test_the_threshold_of_a_class_is_its_mean() -> None:
    """The class of a hesitant model needs less probability than that of a sure one."""
    label = np.array([0, 0, 1, 1, 0])
    probability = np.array([[0.99, 0.01], [0.97, 0.03], [0.4, 0.6], [0.5, 0.5], [0.42, 0.58]])
    # means of the labelled classes: 0.79 and 0.55
    assert likely_wrong(label, probability).tolist() == [False, False, False, False, True]
    sure = np.array([[0.99, 0.01], [0.97, 0.03], [0.01, 0.99], [0.02, 0.98], [0.42, 0.58]])
    assert not likely_wrong(label, sure).any()
    # the label is the most probable class of the last, though under its mean of 0.82
    weak = np.array([[0.99, 0.01], [0.97, 0.03], [0.6, 0.4], [0.6, 0.4], [0.51, 0.49]])
    assert likely_wrong(label, weak).tolist() == [False, False, False, False, False]


def test_the_list_begins_with_the_least_probable_label() -> None:
    label = np.array([0, 1, 1, 0])
    probability = np.array([[0.9, 0.1], [0.95, 0.05], [0.3, 0.7], [0.5, 0.5]])
    means = average([Votes(np.array([0, 1, 2]), probability[:3], ALL)], label, 2)
    names = ["p", "q", "r", "s"]
    found = rank(names, names, names, label, ["a", "b"], means)
    assert [one.photo for one in found] == ["q", "r", "p"], "no model answered for s"
    assert (found[0].label, found[0].suggested) == ("b", "a")
    assert (found[0].doubt, found[0].p_suggested) == (0.95, 0.95)
    assert (found[0].models, found[0].against) == (1, 1)
    assert [one.likely for one in found] == [True, False, False]


@given(st.integers(0, 10_000), st.integers(20, 80), st.integers(2, 6))
def test_planted_errors_of_good_answers_come_first(seed: int, n: int, classes: int) -> None:
    generator = np.random.default_rng(seed)
    true = generator.integers(0, classes, n)
    probability = generator.dirichlet(np.ones(classes), n) * 0.2
    probability[np.arange(n), true] += 0.8
    planted = generator.permutation(n)[: n // 10]
    label = true.copy()
    label[planted] = (true[planted] + 1) % classes
    means = average([Votes(np.arange(n), probability, np.arange(classes))], label, classes)
    names = [str(i) for i in range(n)]
    found = rank(names, names, names, label, names, means)
    assert {int(one.photo) for one in found[: len(planted)]} == set(planted.tolist())
    assert all(one.suggested == names[true[int(one.photo)]] for one in found)
    doubts = [one.doubt for one in found]
    assert doubts == sorted(doubts, reverse=True)
    assert min(doubts) >= 0
    assert max(doubts) <= 1


def test_answers_of_models_with_other_names_of_the_classes() -> None:
    """Kinds of the model's that the table joins are added; those of the table stay apart."""
    probability = np.array([[0.5, 0.3, 0.2]])
    opinion = Opinion(Path("run"), np.array([4]), probability, ["BNE", "SNE", "ig"], 0, "")
    votes = _as_votes(opinion, ["immature granulocyte", "neutrophil"])
    assert votes.classes.tolist() == [0, 1]
    assert votes.probability[0].tolist() == pytest.approx([0.2, 0.8])
    apart = _as_votes(opinion, ["SNE", "BNE", "ig"])
    assert apart.classes.tolist() == [0, 1, 2]
    assert apart.probability[0].tolist() == pytest.approx([0.3, 0.5, 0.2])
