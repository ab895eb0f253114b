"""Gives some photographs a wrong label, to count how many of them `audit --labels` finds.

python scripts/planted_labels.py blood-cells.zip --write planted.csv
for k in 0 1 2 3 4; do bloodcell fit --config best_folds.yaml --data.root blood-cells.zip \
  --data.labels planted.csv --data.fold $k --name planted; done
bloodcell audit blood-cells.zip --label_table planted.csv --labels lightning_logs/planted --out doubts.csv
python scripts/planted_labels.py blood-cells.zip --count doubts.csv
"""  # noqa: E501

import csv
from pathlib import Path

import numpy as np
from arguments import existing, make_parser, read_rows, short_errors, writable

from bloodcell.data.source import open_source
from bloodcell.data.table import Table, build_table

_FIRST = 0.1  # share of the list that is looked at


def plant(table: Table, share: float, seed: int) -> dict[str, str]:
    """Returns the wrong label of each chosen photograph, any other class with equal chance."""
    labels = {row.photo: row.class_name for row in table.rows}
    draw = np.random.default_rng(seed)
    chosen = draw.permutation(sorted(labels))[: round(share * len(labels))]
    names = table.class_names
    return {
        photo: str(draw.choice([name for name in names if name != labels[photo]]))
        for photo in chosen.tolist()
    }


def write(path: Path, table: Table, wrong: dict[str, str]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file)
        lines.writerow(("file", "class"))
        for row in table.rows:
            lines.writerow((row.path, wrong.get(row.photo, row.class_name)))
    print(f"{path}: {len(wrong)} photographs have a wrong label")


def count(path: Path, wrong: dict[str, str]) -> None:
    listed = [row["photo"] for row in read_rows(path, "photo")]
    places = sorted(listed.index(photo) + 1 for photo in wrong if photo in listed)
    first = round(_FIRST * len(listed))
    found = sum(place <= first for place in places)
    print(f"{found} of {len(wrong)} wrong labels are among the first {first} of {len(listed)}")
    print(f"places: {', '.join(map(str, places))}")


if __name__ == "__main__":
    parser = make_parser(__doc__)
    parser.add_argument("root", help="data set")
    parser.add_argument("--share", type=float, default=0.05, help="share of wrong labels")
    parser.add_argument("--seed", type=int, default=0, help="seed of the choice")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--write", type=writable, help="write a table with the wrong labels")
    what.add_argument("--count", type=existing, help="count them in this list of doubts")
    given = parser.parse_args()
    if not 0 < given.share <= 1:
        parser.error("--share must be over 0, and at most 1")
    with short_errors():
        table = build_table(open_source(given.root))
    wrong = plant(table, given.share, given.seed)
    if given.write:
        write(given.write, table, wrong)
    else:
        count(given.count, wrong)
