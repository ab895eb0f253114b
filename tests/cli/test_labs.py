"""`labs`, and everything that is scored by data set, on runs of several drawn laboratories."""

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bloodcell.cli.main import main
from bloodcell.cli.settings import pairs
from bloodcell.datasets.drawn import DATASET, DRAWN
from bloodcell.datasets.named import Prepared, named_datasets
from bloodcell.evaluate.scores import Predictions, read_predictions, score, write_predictions
from bloodcell.infer.saved import load_saved
from bloodcell.published.crew import Crew, Job

Refused = Callable[..., str]
SMALL = [
    *("--data.image_size", "32", "--model.backbone", "test_efficientnet"),
    *("--model.weights", "none", "--model.lr", "1e-3", "--trainer.accelerator", "cpu"),
    *("--trainer.max_epochs", "1", "--trainer.precision", "32-true"),
    *("--trainer.enable_progress_bar", "false"),
]


@pytest.fixture
def root(make_folders: Callable[..., Path]) -> str:
    first = make_folders({"Neutrophils": 12, "basophil": 12, "monocyte": 12}, "berlin")
    second = make_folders({"NEUTROPHIL": 12, "BASOPHIL": 12}, "paris")
    return f"[{first}, {second}]"


def test_scores_by_data_set(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--data.root", root, "--data.balance", "datasets", "--name", "both"]
    main(["fit", *SMALL, *words, "--monitor", "val/balanced_accuracy/paris"])
    folder = Path("lightning_logs/both/version_0")
    scores = json.loads((folder / "scores.json").read_text())
    found = scores["test"]["by_dataset"]
    assert {name: one["by_photo"]["n"] for name, one in found.items()} == {"berlin": 7, "paris": 5}
    assert "own_classes" not in found["berlin"]
    assert "own_classes" in found["paris"]
    assert scores["monitor"] == "val/balanced_accuracy/paris"
    said = capsys.readouterr().out
    assert "  paris: train" in said
    assert "\n  paris          balanced " in said
    value = found["paris"]["by_photo"]["balanced_accuracy"]["value"]
    assert f"| paris | 5 | {value:.4f} [" in (folder / "MODEL_CARD.md").read_text()
    events = EventAccumulator(str(folder)).Reload()
    for part in ("val", "test"):
        for name in ("berlin", "paris"):
            (one,) = events.Scalars(f"{part}/balanced_accuracy/{name}")
            if part == "test":
                by_file = found[name]["by_file"]["balanced_accuracy"]["value"]
                assert one.value == pytest.approx(by_file)
    main(["verify", str(folder), "--trainer.accelerator", "cpu"])
    assert "matches its checkpoint" in capsys.readouterr().out
    found["paris"]["by_file"]["accuracy"]["value"] += 0.1
    (folder / "scores.json").write_text(json.dumps(scores))
    with pytest.raises(SystemExit):
        main(["verify", str(folder), "--trainer.accelerator", "cpu"])
    assert "different: by_dataset" in capsys.readouterr().out


def test_drawn_smears_among_others_are_marked(
    make_folders: Callable[..., Path],
    smears: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    drawn = replace(DATASET, prepare=lambda: Prepared(smears / "images", smears / "photos.csv"))
    monkeypatch.setitem(named_datasets(), DRAWN, drawn)
    root = f"[drawn, {make_folders({'NEUTROPHIL': 12, 'MONOCYTE': 12}, 'paris')}]"
    main(["fit", *SMALL, "--data.root", root, "--name", "both"])
    folder = Path("lightning_logs/both-drawn/version_0")
    assert json.loads((folder / "scores.json").read_text())["drawn"]
    assert "one of its data sets is DRAWN smears" in (folder / "MODEL_CARD.md").read_text()
    assert ", DRAWN smears\n" in capsys.readouterr().out


def test_predictions_of_several_data_sets_survive_the_file(tmp_path: Path) -> None:
    """Set y lacks class c, which is the model's answer to one of its images."""
    probability = np.array([[0.9, 0.1, 0], [0, 0.2, 0.8], [0.3, 0.1, 0.6], [0.1, 0.9, 0]])
    said = Predictions(
        *(["test"] * 4, list("pqrs"), list("pqrs"), np.array([0, 2, 0, 1])),
        *(probability.astype(np.float32), list("abc"), list("xxyy")),
    )
    write_predictions(tmp_path, said)
    read = read_predictions(tmp_path)
    assert list(read.dataset) == list("xxyy")
    assert read.class_names == list("abc")
    found = score(read)["by_dataset"]
    assert found["x"]["by_file"]["balanced_accuracy"]["value"] == 1
    assert found["y"]["by_file"]["balanced_accuracy"]["value"] == 0.5
    assert found["y"]["own_classes"]["by_photo"]["balanced_accuracy"]["value"] == 1


def test_each_laboratory_is_held_out_once(
    root: str, capsys: pytest.CaptureFixture[str], refused: Refused
) -> None:
    words = ["labs", *SMALL, "--data.root", root]
    main(words)
    with Path("labs/labs.csv").open(newline="") as file:
        rows = {row["tested on"]: row for row in csv.DictReader(file)}
    assert {name: (row["photographs"], row["classes"]) for name, row in rows.items()} == {
        "berlin": ("24", "2"),
        "paris": ("24", "2"),
    }
    assert "over basophil, neutrophil." in Path("labs/labs.md").read_text()
    for name in rows:
        folder = Path(f"labs/lightning_logs/custom-{name}/version_0")
        assert {*read_predictions(folder).dataset} == {name}
    assert "2 runs in labs: 2 to do" in capsys.readouterr().out
    main([*words, "--seeds", "2"])
    assert "4 runs in labs: 2 to do" in capsys.readouterr().out
    with Path("labs/labs.csv").open(newline="") as file:
        seeds = list(csv.DictReader(file))
    assert [row["seed"] for row in seeds] == ["0", "1", "mean of 2"] * 2
    for first, second, mean in (seeds[:3], seeds[3:]):
        for of in ("balanced, by file", "balanced, by photograph", "own classes only"):
            values = [float(row[of].split()[0]) for row in (first, second, mean)]
            assert values[2] == pytest.approx((values[0] + values[1]) / 2, abs=2e-4)
    found = json.loads(Path("labs/labs.json").read_text())
    assert found["datasets"]["paris"]["seeds"] == 2
    assert sum(map(sum, found["confusion"])) == 48  # of one seed
    main([*words, "--seeds", "2"])
    assert "4 runs in labs: 0 to do" in capsys.readouterr().out
    assert "contains runs with other options" in refused(*words, "--data.augment", "flips")


def test_an_export_carries_the_results_on_laboratories_left_out(
    root: str, capsys: pytest.CaptureFixture[str], refused: Refused
) -> None:
    main(["labs", *SMALL, "--data.root", root])
    main(["fit", *SMALL, "--data.root", root, "--name", "both"])
    run, images = "lightning_logs/both/version_0", root.strip("[]").split(", ")[0]
    main(["export", images, "--model", run, "--out", "both.safetensors", "--labs", "labs"])
    found = json.loads(Path("labs/labs.json").read_text())
    saved = load_saved(Path("both.safetensors")).description
    assert (
        saved.temperature == found["temperature"] != load_saved(Path(run)).description.temperature
    )
    assert found["after"]["log_loss"] <= found["before"]["log_loss"] + 1e-9
    basophil, monocyte, neutrophil = found["confusion"]
    assert (sum(basophil), sum(monocyte), sum(neutrophil)) == (24, 0, 24)
    own = json.loads(Path(run, "scores.json").read_text())["confusion"]
    assert saved.scores["confusion"] == own
    merged = [basophil, own["counts"][1], neutrophil]  # monocytes are in one data set only
    assert saved.scores["unseen"]["confusion"] == merged
    value = found["datasets"]["paris"]["by_file"]["value"]
    assert f"| paris | 24 | 2 | {value:.4f} [" in Path("both.safetensors.MODEL_CARD.md").read_text()
    capsys.readouterr()
    words = ["export", images, "--model", run, "--out", "other.safetensors", "--labs"]
    assert "--labs=. cannot be used: it must be a folder with labs.json" in refused(*words, ".")
    Path("labs/labs.json").write_text("{")
    assert "labs/labs.json is damaged" in refused(*words, "labs")
    damaged = {key: value for key, value in found.items() if key != "temperature"}
    Path("labs/labs.json").write_text(json.dumps(damaged))
    assert "labs/labs.json is damaged ('temperature')" in refused(*words, "labs")
    found["class_names"].pop()
    Path("labs/labs.json").write_text(json.dumps(found))
    assert "but theirs are basophil, monocyte" in refused(*words, "labs")
    assert not Path("other.safetensors").exists()


def test_teachers_of_a_laboratory_have_not_seen_it(
    root: str, monkeypatch: pytest.MonkeyPatch, refused: Refused
) -> None:
    words = ["labs", *SMALL, "--data.root", root, "--teachers", "before", "--out", "taught"]
    text = (
        "--teachers before needs equally many finished runs without each data set, and has "
        "0 of custom-berlin, 0 of custom-paris. Finish them first"
    )
    assert text in refused(*words)
    for name, version in (("berlin", 0), ("berlin", 1), ("paris", 0), ("paris", 1)):
        before = refused(*words)
        folder = Path(f"before/lightning_logs/custom-{name}/version_{version}")
        folder.mkdir(parents=True)
        (folder / "scores.json").write_text("{}")
    assert "and has 2 of custom-berlin, 1 of custom-paris." in before
    logs = Path("before/lightning_logs")
    (logs / "custom-paris").rename(logs / "custom-paris-drawn")  # as if it had drawn smears
    jobs = list[Job]()
    monkeypatch.setattr(Crew, "run", lambda _, waiting, __: jobs.extend(waiting))
    main(words)
    given = [dict(pairs(job.words)) for job in jobs]
    assert [(one["--data.test_on"], one["--model.teachers"]) for one in given] == [
        (
            "berlin",
            '["before/lightning_logs/custom-berlin/version_0", '
            '"before/lightning_logs/custom-berlin/version_1"]',
        ),
        (
            "paris",
            '["before/lightning_logs/custom-paris-drawn/version_0", '
            '"before/lightning_logs/custom-paris-drawn/version_1"]',
        ),
    ]
    kept = json.loads(Path("taught/options.json").read_text())
    assert kept[-1] == given[-1]["--model.teachers"], "runs with other teachers are told apart"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model.teachers", "[x]"], "labs sets --model.teachers itself. Leave it out."),
        (["--resume", "auto"], "labs sets --resume itself. Leave it out."),
        (["--data.root", "drawn"], "labs needs at least two data sets: give data.root a list"),
        (["--data.test_on", "pbc"], "labs sets --data.test_on itself. Leave it out."),
        (["--seeds", "0"], "--seeds=0 cannot be used: it must be a whole number, 1 or more"),
        (["--data.rot", "x"], "data.rot is not a setting of fit. Did you mean 'data.root'?"),
    ],
)
def test_labs_refuses(words: list[str], message: str, refused: Refused, smears: Path) -> None:
    if "drawn" in words:
        words = ["--data.root", str(smears / "images")]
    assert message in refused("labs", *words)
