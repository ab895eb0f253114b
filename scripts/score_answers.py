"""Scores a table of `predict` by file and by photograph, with intervals.

bloodcell predict "blood-cells.zip/*/images/TEST/*" --model d8.int8.onnx --out predictions.csv
python scripts/score_answers.py predictions.csv blood-cells.zip
"""

import sys
from pathlib import Path

import numpy as np
from arguments import existing, make_parser, read_rows, short_errors

from bloodcell.data.source import open_source
from bloodcell.data.table import build_table
from bloodcell.evaluate.metrics import Estimate
from bloodcell.evaluate.scores import Predictions, score

_METRICS = ("accuracy", "balanced_accuracy", "log_loss", "ece")


def read_table(path: Path, root: str) -> Predictions:
    table = build_table(open_source(root), None)
    names = list(table.class_names)
    rows = read_rows(path, "file", "error")
    if rows and {column for column in rows[0] if column.startswith("p_")} != {
        f"p_{name}" for name in names
    }:
        sys.exit(f"{path}: the model has other classes than {root} ({', '.join(names)})")
    lines = [line for line in rows if not line["error"]]
    if not lines:
        sys.exit(f"{path}: no file was classified")
    known = {f"{Path(root)}/{row.path}": row for row in table.rows}
    if strange := [line["file"] for line in lines if line["file"] not in known]:
        sys.exit(f"{path}: {len(strange):,} files are not in {root}, e.g. {strange[0]}")
    found = [known[line["file"]] for line in lines]
    return Predictions(
        ["test"] * len(found),
        [row.path for row in found],
        [row.photo for row in found],
        np.array([names.index(row.class_name) for row in found]),
        np.array([[float(line[f"p_{name}"]) for name in names] for line in lines], np.float32),
        names,
    )


if __name__ == "__main__":
    parser = make_parser(__doc__)
    parser.add_argument("table", type=existing, help="written by `predict`")
    parser.add_argument("root", help="as `data.root`")
    given = parser.parse_args()
    with short_errors():
        found = score(read_table(given.table, given.root))
    for by in ("by_file", "by_photo"):
        values = (f"{m} {Estimate(*found[by][m].values())}" for m in _METRICS)
        print(f"{by}, {found[by]['n']:,}: {', '.join(values)}")
