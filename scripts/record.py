"""Scores several runs together: seeds of one configuration, or folds of a cross-validation.

python scripts/record.py seeds lightning_logs/best/version_*
python scripts/record.py folds lightning_logs/folds_*/version_0
python scripts/record.py seeds blood-cells.zip seed0.csv seed1.csv     # tables of `predict`

`seeds` prints the mean of each score over the runs, its standard deviation, and a 95 % interval of
the mean from a bootstrap over photographs, with the same samples for all runs. `folds` joins the
test parts of the runs. Both list the misclassified photographs, by the mean probability of their
files over all seeds.
"""

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from arguments import existing, make_parser, short_errors
from score_answers import read_table

from bloodcell.evaluate.metrics import Estimate, average_photos, compute, draw_photos, sample_of
from bloodcell.evaluate.scores import Predictions, read_predictions

_METRICS = ("accuracy", "balanced_accuracy", "log_loss")


def read(paths: Sequence[Path]) -> list[Predictions]:
    if paths[0].suffix != ".zip":
        return [read_predictions(run) for run in paths]
    return [in_order(read_table(table, str(paths[0]))) for table in paths[1:]]


def in_order(predictions: Predictions) -> Predictions:
    order = sorted(range(len(predictions.file)), key=lambda n: predictions.file[n])
    return predictions._replace(
        file=[predictions.file[n] for n in order],
        photo=[predictions.photo[n] for n in order],
        true=predictions.true[order],
        probability=predictions.probability[order],
    )


def join(runs: Sequence[Predictions]) -> Predictions:
    """Concatenates the predictions of several runs."""
    return Predictions(
        [part for run in runs for part in run.split],
        [file for run in runs for file in run.file],
        [photo for run in runs for photo in run.photo],
        np.concatenate([run.true for run in runs]),
        np.concatenate([run.probability for run in runs]),
        runs[0].class_names,
    )


def report(runs: Sequence[Predictions]) -> None:
    """Prints the mean scores of runs with the same test images, and the wrong photographs."""
    if any(run.photo != runs[0].photo for run in runs):
        sys.exit(
            "these runs were tested on different images: they are not seeds of one configuration"
        )
    files = [sample_of(run.true, run.probability, run.photo) for run in runs]
    for by, samples in {
        "by file": files,
        "by photograph": [average_photos(one) for one in files],
    }.items():
        classes = average_photos(samples[0]).true
        weights = draw_photos(classes, 0)
        values = [compute(one, np.ones((1, len(classes)))) for one in samples]
        drawn = [compute(one, weights) for one in samples]
        for metric in _METRICS:
            each = np.array([float(scores[metric][0]) for scores in values])
            low, high = np.percentile(np.mean([scores[metric] for scores in drawn], 0), [2.5, 97.5])
            spread = f", sd {each.std(ddof=1):.4f}" if len(each) > 1 else ""
            print(f"{by}, {metric}: {Estimate(each.mean(), low, high)}{spread}")
        recall = np.mean([scores["recall"][0] for scores in values], 0)
        names = runs[0].class_names
        print(
            f"{by}, recall: "
            + ", ".join(f"{n} {r:.3f}" for n, r in zip(names, recall, strict=True))
        )
    together = join(runs)
    mean = average_photos(sample_of(together.true, together.probability, together.photo))
    photos = np.unique(together.photo)
    predicted = mean.probability.argmax(1)
    wrong = np.flatnonzero(predicted != mean.true)
    print(
        f"{len(wrong)} of {len(photos)} photographs wrong: photograph, true -> predicted "
        "(probability of predicted, of true)"
    )
    for n in sorted(wrong, key=lambda n: (len(photos[n]), photos[n])):  # 9 before 10
        pair = (mean.true[n], predicted[n])
        true, wrong_name = (together.class_names[label] for label in pair)
        right, high = mean.probability[n, list(pair)]
        print(f"  {photos[n]}: {true} -> {wrong_name} ({high:.2f}, {right:.2f})")


if __name__ == "__main__":
    parser = make_parser(__doc__)
    parser.add_argument("kind", choices=["seeds", "folds"], help="what the runs differ in")
    parser.add_argument(
        "runs", type=existing, nargs="+", help="run folders, or a .zip and its tables"
    )
    given = parser.parse_args()
    with short_errors():
        found = read(given.runs)
    if not found:
        parser.error("give a table of `predict` after the archive")
    if given.kind == "folds":
        tested = Counter(photo for one in found for photo in {*one.photo})
        if repeated := [photo for photo, times in tested.items() if times > 1]:
            sys.exit(f"{len(repeated)} photographs are in several folds, e.g. {repeated[0]}")
        found = [join(found)]
    report(found)
