"""Whether a run is what it claims."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from bloodcell.cli.main import main
from bloodcell.errors import InputError
from bloodcell.evaluate.history import Epoch
from bloodcell.evaluate.scores import read_predictions, score, write_predictions
from bloodcell.evaluate.verified import compare, read_claims

Refused = Callable[..., str]


@pytest.fixture
def claimed(run: Path, tmp_path: Path) -> Path:
    """A run that a test may change."""
    return Path(shutil.copytree(run, tmp_path / "asked" / "version_0"))


def verify(folder: Path) -> int:
    try:
        main(["verify", str(folder), "--trainer.accelerator", "cpu"])
    except SystemExit as stopped:
        return int(stopped.code or 0)
    return 0


def test_a_run_is_what_it_claims(claimed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in claimed.rglob("*") if path.is_file()}
    assert verify(claimed) == 0
    said = capsys.readouterr().out
    assert "scores       ok       computed from predictions.csv, metrics.csv: the same" in said
    assert "predictions  ok       the same" in said
    assert "tested on    ok       40 files" in said
    assert f"{claimed} matches its checkpoint" in said
    assert {path: path.read_bytes() for path in claimed.rglob("*") if path.is_file()} == before


def test_scores_that_were_written_by_hand(
    claimed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = json.loads((claimed / "scores.json").read_text())
    scores["test"]["by_file"]["accuracy"]["value"] = 0.999
    scores["test"]["accuracy"] = 0.999
    scores["machine"]["versions"]["torch"] = "1.0"
    (claimed / "scores.json").write_text(json.dumps(scores))
    assert verify(claimed) == 1
    said = capsys.readouterr().out
    assert (
        "computed from predictions.csv, metrics.csv: different: by_file accuracy, test acc" in said
    )
    assert "versions     differs  torch 1.0 -> " in said
    assert "does NOT match its checkpoint" in said


def test_predictions_of_another_model(claimed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both files agree with each other, but the checkpoint says otherwise."""
    header, *lines = (claimed / "predictions.csv").read_text().splitlines()
    turned = [",".join([*line.split(",")[:4], "0", "0", "0.25", "0.75"]) for line in lines]
    (claimed / "predictions.csv").write_text("\n".join([header, *turned]) + "\n")
    assert verify(claimed) == 1
    said = capsys.readouterr().out
    assert "files have another predicted class, probabilities differ by at most" in said
    assert "predictions  FAILED" in said


@pytest.mark.parametrize(
    ("part", "name"),
    [("test", "accuracy"), ("test", "loss"), ("val", "accuracy"), ("train", "loss")],
)
def test_single_numbers(
    part: str, name: str, claimed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = json.loads((claimed / "scores.json").read_text())
    scores[part][name] += 0.1
    (claimed / "scores.json").write_text(json.dumps(scores))
    assert verify(claimed) == 1
    said = capsys.readouterr().out
    assert f"different: {part} {name}" in said or "test loss    FAILED" in said


def test_labels_that_agree_with_the_model(
    claimed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The truth turned into what the model says, and scored: all agrees but the data."""
    said = read_predictions(claimed)
    write_predictions(claimed, said._replace(true=said.probability.argmax(1)))
    scores = json.loads((claimed / "scores.json").read_text())
    scores["test"] |= score(read_predictions(claimed))
    scores["test"]["accuracy"] = scores["test"]["accuracy_by_photo"] = 1.0
    (claimed / "scores.json").write_text(json.dumps(scores))
    assert verify(claimed) == 1
    assert "other files, classes or photographs" in capsys.readouterr().out


def test_a_run_without_a_validated_epoch(write_run: Callable[..., Path], tmp_path: Path) -> None:
    folder = write_run(tmp_path / "unvalidated" / "version_0", 0.9)
    said, nan = read_predictions(folder), float("nan")
    lines = [Epoch._fields, Epoch(0, 0.5, 0.8, nan, nan, 1e-5, 100.0, 1.0)]
    (folder / "metrics.csv").write_text("\n".join(",".join(map(str, one)) for one in lines))
    found = score(said)
    accuracy = {by: found[by]["accuracy"]["value"] for by in ("by_file", "by_photo")}
    claims = {
        "monitor": "train/loss",
        "epochs": 1,
        "best_epoch": 0,
        "train": {"loss": 0.5, "accuracy": 0.8},
        "val": {"loss": nan, "accuracy": nan},
        "test": found
        | {"loss": 0.3, "accuracy": accuracy["by_file"], "photos": 80}
        | {"accuracy_by_photo": accuracy["by_photo"]},
        "data_fingerprint": "f",
    }
    checks = compare(folder, claims, said, 0.3, "f")
    assert all(one.passed for one in checks), checks
    claims["val"] = {"loss": 0.1, "accuracy": nan}
    assert "different: val loss" in compare(folder, claims, said, 0.3, "f")[0].detail


@pytest.mark.parametrize(
    ("name", "text"),
    [("metrics.csv", "epoch,train_loss\n0\n"), ("predictions.csv", '"' + 200_000 * "x")],
)
def test_damaged_tables(
    name: str, text: str, write_run: Callable[..., Path], tmp_path: Path
) -> None:
    folder = write_run(tmp_path / "damaged" / "version_0", 0.9)
    (folder / name).write_text(text)
    with pytest.raises(InputError, match=r"its scores\.json, predictions\.csv or metrics\.csv is"):
        read_claims(folder)


def test_what_cannot_be_verified(claimed: Path, refused: Refused) -> None:
    assert "verify needs a run folder as its first argument" in refused("verify")
    assert "verify needs a run folder as its first argument" in refused(
        "verify", "--ckpt_path", str(claimed)
    )
    Path("other.ckpt").touch()
    said = refused("verify", str(claimed), "--ckpt_path", "other.ckpt")
    assert "omitted, because verify tests the run's best checkpoint" in said
    assert "it has no scores.json, predictions.csv" in refused("verify", "nowhere")
    damaged = "its scores.json, predictions.csv or metrics.csv is damaged"
    for wrong in ("[", "[" * 100_000, "{}", '{"test": [], "val": {}, "machine": "x"}'):
        (claimed / "scores.json").write_text(wrong)
        assert damaged in refused("verify", str(claimed))
    (claimed / "scores.json").write_text("[")
    assert damaged in refused("verify", str(claimed))


def test_damaged_files_are_written_again(
    claimed: Path, refused: Refused, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the way that the message names."""
    (claimed / "predictions.csv").write_text("")
    said = refused("verify", str(claimed))
    assert f"bloodcell fit --ckpt_path {claimed}" in said.partition("delete scores.json, then ")[2]
    (claimed / "scores.json").unlink()
    main(["fit", "--ckpt_path", str(claimed)])
    assert verify(claimed) == 0
    assert "matches its checkpoint" in capsys.readouterr().out
