"""Labels shared with teachers: what they become, and which teachers are refused."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from bloodcell.__main__ import main
from bloodcell.data.datamodule import BloodCells
from bloodcell.errors import InputError
from bloodcell.model.description import TRAINED_ON
from bloodcell.report.scores import Predictions, read_predictions, write_predictions
from bloodcell.train.teachers import doubted, shared_labels

Open = Callable[..., BloodCells]


@pytest.fixture
def opened(smears: Path) -> Open:
    def open_(split: str = "photo", fold: int = 0, hold_out: int | None = None) -> BloodCells:
        root, photos = str(smears / "images"), str(smears / "photos.csv")
        return BloodCells(root, split, fold, hold_out, 0.2, photos, 32)  # type: ignore[arg-type]

    return open_


def write_teacher(folder: Path, run: Path, data: BloodCells, wrong: str = "") -> Path:
    """A run on these parts that is .7 sure of the label, or of the next class where it is wrong."""
    shutil.copytree(run, folder)
    path = folder / "checkpoints" / "best.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    torch.save(checkpoint | {TRAINED_ON: data.trained_on}, path)
    rows = [(part, i) for part in ("val", "test") for i in data.parts[part]]
    true = np.array([data.table.labels[i] for _, i in rows])
    said = true + np.array([data.table.rows[i].photo == wrong for _, i in rows])
    probability = np.full((len(rows), 4), 0.1, np.float32)
    probability[np.arange(len(rows)), said % 4] = 0.7
    write_predictions(
        folder,
        Predictions(
            [part for part, _ in rows],
            [data.table.rows[i].path for _, i in rows],
            [data.table.rows[i].photo for _, i in rows],
            true,
            probability,
            data.class_names,
        ),
    )
    return folder


@pytest.fixture
def teachers(run: Path, opened: Open) -> Path:
    for fold in range(5):
        write_teacher(Path(f"teachers/version_{fold}"), run, opened("train_folds", fold))
    return Path("teachers")


def test_half_of_a_label_is_what_others_say_of_the_photograph(
    teachers: Path, opened: Open, run: Path
) -> None:
    data = opened()
    train = data.parts["train"]
    photo = data.table.rows[train[0]].photo
    folds = [opened("train_folds", fold) for fold in range(5)]
    (fold,) = (n for n, of in enumerate(folds) if photo in _tested_photos(of))
    shutil.rmtree(teachers / f"version_{fold}")
    write_teacher(teachers / f"version_{fold}", run, folds[fold], wrong=photo)

    labels = shared_labels(str(teachers), data)

    assert labels.shape == (len(data.table.rows), 4)
    for i, row in enumerate(data.table.rows):
        true = data.table.labels[i]
        expected = torch.zeros(4)
        if i not in train:
            expected[true] = 1
        else:
            expected += 0.05
            expected[(true + (row.photo == photo)) % 4] = 0.35
            expected[true] += 0.5
        torch.testing.assert_close(labels[i], expected)
    said = doubted(labels, data)
    others = len({data.table.rows[i].photo for i in train})
    names = data.class_names
    was, is_ = names[data.table.labels[train[0]]], names[(data.table.labels[train[0]] + 1) % 4]
    assert f"1 of {others} photographs otherwise: {photo} {was} -> {is_} (0.70)" in said


def _tested_photos(data: BloodCells) -> set[str]:
    return {data.table.rows[i].photo for i in data.parts["test"]}


def test_a_missing_fold_is_named(teachers: Path, opened: Open) -> None:
    shutil.rmtree(teachers / "version_3")
    with pytest.raises(InputError, match=r"model.teachers=teachers: none of 4 runs tested \d+ of"):
        shared_labels(str(teachers), opened())


def test_teachers_that_know_the_test_part_are_refused(
    teachers: Path, opened: Open, run: Path
) -> None:
    # each fold of TRAIN is tested by one that trained on the others
    with pytest.raises(InputError, match=r"version_\d was trained on, or its checkpoint chosen by"):
        shared_labels(str(teachers), opened("train_folds", 1))
    # one that only chose its checkpoint by a cell of the test part
    chosen = read_predictions(teachers / "version_0")
    cell = opened().parts["test"][0]
    row = opened().table.rows[cell]
    told = chosen._replace(photo=[row.photo, *chosen.photo[1:]])
    write_predictions(teachers / "version_0", told)
    with pytest.raises(InputError, match=r"version_0 .*, or its checkpoint chosen by, 1"):
        shared_labels(str(teachers), opened())


def test_nested_folds_may_advise(run: Path, opened: Open) -> None:
    for fold in (0, 1, 3, 4):
        write_teacher(Path(f"nested/version_{fold}"), run, opened("folds", fold, 2))
    data = opened("folds", 2)
    labels = shared_labels("nested", data)
    assert labels[data.parts["train"]].max() < 1


def test_a_run_that_saw_a_copy_is_not_asked(teachers: Path, opened: Open) -> None:
    asked = opened("train_folds", 0)
    copy = asked.parts["test"][0]
    path = teachers / "version_0" / "checkpoints" / "best.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    seen = torch.cat([asked.trained_on, asked.image_keys([copy])])
    torch.save(checkpoint | {TRAINED_ON: seen}, path)
    data = opened()
    if copy in data.parts["val"]:
        data.parts["train"], data.parts["val"] = data.parts["val"], data.parts["train"]
    photo = asked.table.rows[copy].photo
    with pytest.raises(InputError, match=rf"1 of the training .* seen their cell \({photo}\)"):
        shared_labels(str(teachers), data)


def test_what_cannot_teach(tmp_path: Path, opened: Open, run: Path) -> None:
    with pytest.raises(InputError, match=r"model\.teachers: nowhere is no folder"):
        shared_labels("nowhere", opened())
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"is unfinished: it has no config\.yaml"):
        shared_labels(str(tmp_path / "empty"), opened())
    data = opened()
    data.class_names = [*"abcd"]
    with pytest.raises(InputError, match=r"knows the classes .* Take runs on the same data"):
        shared_labels(str(run), data)


def test_a_taught_run_resumes_without_its_teachers(
    teachers: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    taught = [*words, "--model.teachers", str(teachers), "--model.lr", "1e-3"]
    main(["fit", *taught, "--name", "whole", "--trainer.max_epochs", "2"])
    assert "half of each training label is its teachers'" in capsys.readouterr().out
    main(["fit", *taught, "--name", "parts", "--trainer.max_epochs", "1"])
    main(["fit", *words, "--model.lr", "1e-3", "--name", "alone", "--trainer.max_epochs", "1"])
    shutil.rmtree(teachers)
    main(["fit", "--ckpt_path", "lightning_logs/parts/version_0", "--trainer.max_epochs", "2"])
    whole, parts, alone = (
        torch.load(f"lightning_logs/{name}/version_0/checkpoints/last.ckpt", weights_only=True)
        for name in ("whole", "parts", "alone")
    )
    for key, value in whole["state_dict"].items():
        assert torch.equal(value, parts["state_dict"][key])
    assert any(
        not torch.equal(value, alone["state_dict"][key])
        for key, value in whole["state_dict"].items()
    )
    main(["test", "--ckpt_path", "lightning_logs/whole/version_0"])
