"""Scores several runs together: seeds of one recipe, or the folds of a cross-validation.

python scripts/record.py seeds lightning_logs/best/version_*
python scripts/record.py folds lightning_logs/folds_*/version_0
python scripts/record.py seeds blood-cells.zip seed0.csv seed1.csv     # tables of `predict`

`seeds`: the mean over the runs of each score, its standard deviation between them, and a 95 %
interval of the mean over photographs drawn anew, the same for all runs. `folds`: the test parts of
the runs as one. Then each photograph that is named wrongly, by its files' mean probability (of
all seeds).
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from score_answers import read_answers

from bloodcell.evaluate.metrics import Estimate, average_photos, compute, draw_photos, sample_of
from bloodcell.evaluate.scores import Predictions, read_predictions

_METRICS = ("accuracy", "balanced_accuracy", "log_loss")


def read(words: Sequence[str]) -> list[Predictions]:
    if not words[0].endswith(".zip"):
        return [read_predictions(Path(run)) for run in words]
    return [in_order(read_answers(Path(table), words[0])) for table in words[1:]]


def in_order(of: Predictions) -> Predictions:
    order = sorted(range(len(of.file)), key=lambda n: of.file[n])
    return of._replace(
        file=[of.file[n] for n in order],
        photo=[of.photo[n] for n in order],
        true=of.true[order],
        probability=of.probability[order],
    )


def join(all_said: Sequence[Predictions]) -> Predictions:
    """The predictions of several runs, one after another."""
    return Predictions(
        [part for of in all_said for part in of.split],
        [file for of in all_said for file in of.file],
        [photo for of in all_said for photo in of.photo],
        np.concatenate([of.true for of in all_said]),
        np.concatenate([of.probability for of in all_said]),
        all_said[0].class_names,
    )


def report(all_said: Sequence[Predictions]) -> None:
    """The means over runs that were tested on the same images, and the wrong photographs."""
    if any(of.photo != all_said[0].photo for of in all_said):
        sys.exit("these runs were tested on different images: they are no seeds of one recipe")
    files = [sample_of(of.true, of.probability, of.photo) for of in all_said]
    for by, samples in {
        "by file": files,
        "by photograph": [average_photos(one) for one in files],
    }.items():
        classes = average_photos(samples[0]).true
        weights = draw_photos(classes, 0)
        values = [compute(one, np.ones((1, len(classes)))) for one in samples]
        drawn = [compute(one, weights) for one in samples]
        for metric in _METRICS:
            each = np.array([float(of[metric][0]) for of in values])
            low, high = np.percentile(np.mean([of[metric] for of in drawn], 0), [2.5, 97.5])
            spread = f", sd {each.std(ddof=1):.4f}" if len(each) > 1 else ""
            print(f"{by}, {metric}: {Estimate(each.mean(), low, high)}{spread}")
        recall = np.mean([of["recall"][0] for of in values], 0)
        names = all_said[0].class_names
        print(
            f"{by}, recall: "
            + ", ".join(f"{n} {r:.3f}" for n, r in zip(names, recall, strict=True))
        )
    together = join(all_said)
    mean = average_photos(sample_of(together.true, together.probability, together.photo))
    photos = np.unique(together.photo)
    said = mean.probability.argmax(1)
    wrong = np.flatnonzero(said != mean.true)
    print(
        f"{len(wrong)} of {len(photos)} photographs wrong: photograph, true -> said (probability "
        "of said, of true)"
    )
    for n in sorted(wrong, key=lambda n: int(photos[n])):
        names = together.class_names
        said_p, true_p = mean.probability[n, said[n]], mean.probability[n, mean.true[n]]
        print(
            f"  {photos[n]}: {names[mean.true[n]]} -> {names[said[n]]} ({said_p:.2f}, {true_p:.2f})"
        )


if __name__ == "__main__":
    if len(sys.argv) < 3 or sys.argv[1] not in ("seeds", "folds"):
        sys.exit(__doc__)
    found = read(sys.argv[2:])
    report([join(found)] if sys.argv[1] == "folds" else found)
