"""Whole runs, in process: what `fit`, `validate` and `test` leave behind and say."""

import errno
import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
import torch
import yaml
from lightning.pytorch.plugins.environments import SLURMEnvironment  # type: ignore[attr-defined]
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bloodcell.cli import configs
from bloodcell.cli.main import main
from bloodcell.data.batches import Batch
from bloodcell.errors import InputError
from bloodcell.evaluate.history import read_history
from bloodcell.evaluate.scores import read_predictions, score
from bloodcell.infer.saved import load_saved, write_saved
from bloodcell.model.bundled import find_bundled
from bloodcell.train.task import Classifier

Refused = Callable[..., str]
SHIPPED = sorted(path.name for path in configs.SHIPPED.glob("*.yaml"))
WEIGHTS = "network.head.0.weight"


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(checkpoint, weights_only=True)["state_dict"]
    return state


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [key for key in one if not torch.equal(one[key], other[key])] == []


@pytest.fixture
def fit(words: list[str]) -> Callable[..., Path]:
    """Trains and returns the newest run folder of that name."""

    def run(*more: str, name: str = "custom", epochs: int = 2) -> Path:
        main(["fit", *words, "--trainer.max_epochs", str(epochs), *more])
        return sorted(Path("lightning_logs", name).glob("version_*"))[-1]

    return run


@pytest.fixture(scope="session")
def finished(smears: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, for tests that only read it."""
    root = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        main([
            "fit", "--data.root", str(smears / "images"), "--data.photos",
            str(smears / "photos.csv"), "--data.image_size", "32", "--model.backbone",
            "test_efficientnet", "--model.weights", "none", "--trainer.accelerator", "cpu",
            "--model.lr", "1e-3", "--trainer.max_epochs", "2",
        ])  # fmt: skip
    return root / "lightning_logs" / "custom" / "version_0"


@pytest.mark.parametrize("config", SHIPPED)
def test_every_shipped_config_runs(
    config: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words += ["--data.val_share", "0.2"]  # a tenth of so few photographs lacks a class
    main(["fit", "--config", config, *words, "--trainer.fast_dev_run", "true"])
    assert "fast_dev_run: train and validation ran; nothing was written." in capsys.readouterr().out
    assert list(Path().rglob("*.ckpt")) == []
    assert not Path("lightning_logs").exists()


def test_the_command_line_wins_wherever_the_config_stands(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words += ["--data.split", "folds", "--config", "d8.yaml", "--print_config"]
    with pytest.raises(SystemExit):
        main(["fit", *words])
    assert yaml.safe_load(capsys.readouterr().out)["data"]["split"] == "folds"


def test_the_published_configs_differ_as_published() -> None:
    published = {
        "d8": ([8], 1e-5), "d16": ([16], 1e-5), "d32": ([32], 1e-5), "d8_d8": ([8, 8], 1e-5),
        "d8_d8_d8": ([8, 8, 8], 1e-5), "d8_lr5e-5": ([8], 5e-5), "d8_lr1e-4": ([8], 1e-4),
    }  # fmt: skip
    for name, (hidden, lr) in published.items():
        settings = yaml.safe_load((configs.SHIPPED / f"{name}.yaml").read_text())
        model = settings.get("model", {})
        assert (model.get("hidden", [8]), model.get("lr", 1e-5)) == (hidden, lr)
        assert settings["data"] == {"split": "seed"}
        stops = {"class_path": "EarlyStopping", "init_args": {"monitor": "val/loss", "patience": 5}}
        assert settings["trainer"] == {"max_epochs": 40, "callbacks": [stops]}
    others = {"any_lab.yaml", "best.yaml", "best_folds.yaml", "demo.yaml", "own_images.yaml"}
    assert {f"{name}.yaml" for name in published} | others == set(SHIPPED)


def test_a_run_folder_holds_everything(finished: Path) -> None:
    found = {path.relative_to(finished).as_posix() for path in finished.rglob("*")}
    events = {name for name in found if name.startswith("events.out.tfevents.")}
    assert found - events == {
        "config.yaml", "metrics.csv", "predictions.csv", "scores.json", "MODEL_CARD.md",
        "checkpoints", "checkpoints/best.ckpt", "checkpoints/last.ckpt",
        "curves.png", "confusion.png", "reliability.png", "worst.png",
    }  # fmt: skip
    scores = json.loads((finished / "scores.json").read_text())
    said = read_predictions(finished)
    scored = score(said)
    assert {key: scores["test"][key] for key in scored} == scored
    assert scores["test"]["accuracy"] == scored["by_file"]["accuracy"]["value"]
    assert scores["test"]["accuracy_by_photo"] == scored["by_photo"]["accuracy"]["value"]
    assert scores["test"]["photos"] == scored["by_photo"]["n"] == 20
    assert len(said.file) == len(set(said.file)) == 4 * 5 * 2
    assert scores["files"] == {"train": 44, "val": 12, "test": 40}
    assert scores["test_photos_also_in_training"] == 0
    history = read_history(finished / "metrics.csv")
    assert [line.epoch for line in history] == [0, 1]
    assert scores["val"]["loss"] == min(line.val_loss for line in history)


def test_tensorboard_has_what_was_logged(finished: Path) -> None:
    tags: set[str] = set()
    images: set[str] = set()
    for path in finished.glob("events.*"):
        events = EventAccumulator(str(path)).Reload()
        tags |= set(events.Tags()["scalars"])
        images |= set(events.Tags()["images"])
    parts = {f"{part}/{what}" for part in ("train", "val", "test") for what in ("loss", "acc")}
    scores = ("balanced_accuracy", "f1", "auroc", "ece")
    parts |= {f"{part}/{what}" for part in ("val", "test") for what in scores}
    assert parts | {"test/acc_by_photo", "images_per_second", "lr-Adam", "epoch"} == tags
    figures = {f"figures/{name}" for name in ("curves", "confusion", "reliability", "worst")}
    assert images == {"train/first_batch"} | figures


def test_the_table(fit: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    run = fit(epochs=1)
    said = capsys.readouterr().out
    for text in (
        "train 44 files of 22 photographs", "parameters", "epoch   1 of 1", "part", "validation",
        "learning time", "tensorboard --logdir lightning_logs", f"test --ckpt_path {run}",
    ):  # fmt: skip
        assert text in said


def test_a_second_run_never_touches_the_first(fit: Callable[..., Path]) -> None:
    first = fit(epochs=1)
    before = {path: path.read_bytes() for path in first.rglob("*") if path.is_file()}
    second = fit(epochs=1)
    assert (first.name, second.name) == ("version_0", "version_1")
    assert {path: path.read_bytes() for path in first.rglob("*") if path.is_file()} == before
    # the same seed gives the same weights
    assert_equal(*(weights(run / "checkpoints" / "last.ckpt") for run in (first, second)))


def test_a_resumed_run_equals_an_uninterrupted_one(fit: Callable[..., Path]) -> None:
    options = ("--data.augment", "flips", "--model.lr", "1e-3", "--model.dropout", "0")
    whole = fit(*options, "--name", "whole", name="whole", epochs=4)
    part = fit(*options, "--name", "part", name="part", epochs=2)
    main(["fit", "--name", "part", "--ckpt_path", "last", "--trainer.max_epochs", "4"])
    assert_equal(*(weights(run / "checkpoints" / "last.ckpt") for run in (whole, part)))
    histories = [read_history(run / "metrics.csv") for run in (whole, part)]
    assert [line[:6] for line in histories[0]] == [line[:6] for line in histories[1]]
    epochs = [
        torch.load(r / "checkpoints/last.ckpt", weights_only=True)["epoch"] for r in (whole, part)
    ]
    assert epochs == [3, 3]
    assert (whole / "predictions.csv").read_text() == (part / "predictions.csv").read_text()


def test_a_run_resumed_elsewhere_keeps_its_best_checkpoint(
    fit: Callable[..., Path],
) -> None:
    """Later epochs at a ruinous rate are worse: they must not replace the best."""
    run = fit("--model.lr", "1e-3", epochs=2)
    moved = Path(shutil.move(run, "moved/custom/version_7"))
    last = torch.load(moved / "checkpoints" / "last.ckpt", weights_only=True)
    best = (moved / "checkpoints" / "best.ckpt").read_bytes()
    for state in last["optimizer_states"]:
        state["param_groups"][0]["lr"] = 1e3
    torch.save(last, moved / "checkpoints" / "last.ckpt")
    main(["fit", "--ckpt_path", str(moved), "--trainer.max_epochs", "3"])
    assert len(read_history(moved / "metrics.csv")) == 3
    assert (moved / "checkpoints" / "best.ckpt").read_bytes() == best


def test_a_run_can_be_repeated_from_its_config(fit: Callable[..., Path]) -> None:
    first = fit("--config", "d16", name="d16", epochs=1)
    main(["fit", "--config", str(first / "config.yaml")])
    second = Path("lightning_logs/d16/version_1")
    assert_equal(*(weights(run / "checkpoints" / "last.ckpt") for run in (first, second)))
    said = [(run / "predictions.csv").read_text() for run in (first, second)]
    assert said[0] == said[1]
    config = [yaml.safe_load((run / "config.yaml").read_text()) for run in (first, second)]
    assert config[0] == config[1]


def test_a_run_folder_is_enough_to_test(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In another place, without its config; the weights it started from are gone."""
    moved = shutil.copytree(finished, tmp_path / "moved")
    (moved / "config.yaml").unlink()
    scores = json.loads((finished / "scores.json").read_text())["test"]
    shown = f"{scores['loss']:.4f}     {scores['accuracy']:.4f}"
    for path in (moved, moved / "checkpoints" / "best.ckpt"):
        main(["test", "--ckpt_path", str(path), "--trainer.accelerator", "cpu"])
        said = capsys.readouterr().out
        assert shown in said
        assert "test/acc" not in said
    main(["validate", "--ckpt_path", str(moved), "--trainer.accelerator", "cpu"])
    assert "validation" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "cache") == ["moved"]


def test_checkpoints_hold_plain_types_and_no_weights_file(finished: Path) -> None:
    checkpoint = torch.load(finished / "checkpoints" / "best.ckpt", weights_only=True)
    assert checkpoint["hyper_parameters"]["weights"] == "none"
    assert checkpoint["hyper_parameters"]["class_names"][0] == "EOSINOPHIL"
    assert checkpoint["recipe"]["mean"] == pytest.approx([0.485, 0.456, 0.406], abs=0.1)
    assert WEIGHTS in checkpoint["state_dict"]


def test_test_needs_a_checkpoint(refused: Refused, finished: Path, tmp_path: Path) -> None:
    assert "test needs --ckpt_path: a run folder or a .ckpt file" in refused("test")
    said = refused("test", "--ckpt_path", str(finished / "nothing"))
    assert "no checkpoint there (looked for" in said
    (tmp_path / "cut.ckpt").write_bytes(
        (finished / "checkpoints" / "best.ckpt").read_bytes()[:5000]
    )
    Path("text.ckpt").write_text("text")  # which the unpickler takes for instructions
    said = refused("test", "--ckpt_path", "text.ckpt")
    assert "text.ckpt cannot be read as a checkpoint" in said
    assert "cannot be read as a checkpoint" in refused("test", "--ckpt_path", "cut.ckpt")
    torch.save({"state_dict": {}}, "foreign.ckpt")
    assert "was not written by bloodcell" in refused("test", "--ckpt_path", "foreign.ckpt")


def test_a_checkpoint_of_other_classes(
    refused: Refused, finished: Path, make_folders: Callable[..., Path]
) -> None:
    root = make_folders({"train/a": 6, "train/b": 6, "test/a": 1, "test/b": 1})
    said = refused(
        "test", "--ckpt_path", str(finished), "--data.root", str(root), "--data.photos", "null",
        "--trainer.accelerator", "cpu",
    )  # fmt: skip
    assert "The checkpoint has the classes ['EOSINOPHIL'" in said
    assert "the data has ['a', 'b']" in said


def test_settings_that_contradict_the_checkpoint(refused: Refused, finished: Path) -> None:
    path = str(finished)
    said = refused("test", "--ckpt_path", path, "--model.hidden", "[16]")
    assert "model.hidden=[16], but the checkpoint was made with [8]" in said
    assert "data.image_size=64" in refused("test", "--ckpt_path", path, "--data.image_size", "64")


def test_resuming_what_cannot_be_resumed(
    refused: Refused, finished: Path, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = refused("fit", *words, "--ckpt_path", "last")
    assert "--ckpt_path last: no run in lightning_logs/custom has a checkpoint" in said
    monkeypatch.chdir(finished.parents[2])
    run = ("fit", "--ckpt_path", "last")
    assert "found: nothing; other names: custom" in refused(*run, "--name", "d8")
    assert "this run is finished after epoch 2" in refused(*run)
    more = (*run, "--trainer.max_epochs", "9")
    said = refused(*more, "--model.lr", "0.5")
    assert "model.lr=0.5, but the checkpoint was made with 0.001, which cannot change now" in said
    said = refused(*more, "--seed_everything", "3")
    assert "seed_everything=3, but the checkpoint was made with 0" in said


def test_cuda_where_there_is_none(
    refused: Refused, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    said = refused("fit", *words, "--trainer.accelerator", "gpu")
    assert "trainer.accelerator=gpu, but PyTorch" in said
    assert "finds no GPU. Use --trainer.accelerator cpu" in said


def test_random_seeds_are_refused(refused: Refused, words: list[str]) -> None:
    for seed in ("true", "-1"):
        said = refused("fit", *words, "--seed_everything", seed)
        assert "cannot be used: it must be a whole number from 0" in said


def test_bad_settings_leave_nothing_behind(refused: Refused, words: list[str]) -> None:
    refused("fit", *words, "--model.weights", "no.pth")
    refused("fit", *words, "--data.root", "nowhere")
    said = refused("fit", *words, "--model.lr=-1")
    assert "model.lr=-1.0 cannot be used: it must be over 0" in said
    assert "model.dropout=1.0" in refused("fit", *words, "--model.dropout", "1")
    for key, value, rule in (
        ("model.weight_decay", "1", "0 to under 1"),
        ("model.smoothing", "1", "0 to under 1"),
        ("model.bn_momentum", "0", "greater than 0 and at most 1"),
        ("data.val_share", "0.6", "1/n with a whole number n from 2 to 20"),
    ):
        said = refused("fit", *words, f"--{key}", value)
        assert f"{key}={float(value)}" in said
        assert rule in said
    assert "model.hidden=[0]" in refused("fit", *words, "--model.hidden", "[0]")
    assert not Path("lightning_logs").exists()


def test_a_full_disk(refused: Refused, words: list[str]) -> None:
    """Files may not grow over 100 kB here: the checkpoint cannot be written."""
    resource = pytest.importorskip("resource")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limit[1]))
    try:
        said = refused("fit", *words, "--trainer.max_epochs", "1")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert "no space to write" in said
    assert "--trainer.default_root_dir" in said
    assert list(Path().rglob("*.ckpt")) == []


def test_a_training_part_with_one_image_too_many(
    fit: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Of 44, a batch of 43 would leave one, on whose 1x1 map BatchNorm cannot train."""
    run = fit("--data.batch_size", "43", epochs=2)
    said = capsys.readouterr().out
    assert said.count("the last training batch has one extra image") == 1
    state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["global_step"] == 2


def test_epochs_without_a_validation(fit: Callable[..., Path]) -> None:
    run = fit("--trainer.check_val_every_n_epoch", "2", epochs=3)
    validated = [not math.isnan(line.val_loss) for line in read_history(run / "metrics.csv")]
    assert validated == [False, True, False]
    assert torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["epoch"] == 1
    assert json.loads((run / "scores.json").read_text())["best_epoch"] == 1


def test_nothing_validated_nothing_tested(
    fit: Callable[..., Path], refused: Refused, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    run = fit("--trainer.check_val_every_n_epoch", "2", epochs=1)
    assert (
        f"{run} has no best checkpoint to test: no epoch was validated" in capsys.readouterr().out
    )
    said = refused("fit", *words, "--trainer.limit_val_batches", "0")
    assert "trainer.limit_val_batches=0 cannot be used: it must be over 0" in said


def test_a_folder_that_may_not_be_written(
    refused: Refused, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "lightning_logs")

    monkeypatch.setattr("bloodcell.train.runs._claim_version", denied)
    said = refused("fit", *words)
    assert "lightning_logs cannot be used (Permission denied)" in said


def test_a_place_that_is_none(refused: Refused, words: list[str]) -> None:
    Path("file").touch()
    for place in ("file", "/proc/nowhere"):
        said = refused("fit", *words, "--trainer.default_root_dir", place)
        assert f"{place}" in said
        assert "cannot be used (" in said
        assert "write elsewhere: set --trainer.default_root_dir for new runs" in said


def test_a_checkpoint_is_not_tested_on_what_it_was_trained_on(
    refused: Refused, finished: Path, smears: Path
) -> None:
    """Divided in another way, the same images would be in train and test."""
    run = ("test", "--ckpt_path", str(finished), "--trainer.accelerator", "cpu")
    for change in (("--data.split", "seed"), ("--data.split", "folds")):
        said = refused(*run, *change)
        assert "images to be scored were trained on. The data must be split as before" in said
    said = refused("validate", *run[1:], "--seed_everything", "7")
    assert "of the 12 images to be scored were trained on" in said
    main([*run, "--data.root", str(smears / "images"), "--data.batch_size", "7"])


def test_a_run_does_not_go_on_with_other_data(
    fit: Callable[..., Path], refused: Refused, smears_copy: Path
) -> None:
    def images() -> list[Path]:
        return sorted((smears_copy / "images" / "TRAIN").rglob("*.jpeg"))

    run = fit("--data.root", str(smears_copy / "images"), epochs=1)
    gone, changed = images()[:2]
    gone.unlink()
    changed.write_bytes(changed.read_bytes() + b"!")
    said = refused("fit", "--ckpt_path", str(run), "--trainer.max_epochs", "2")
    assert "has changed since the run began (fingerprint" in said
    assert f"; changed or new: train/{changed.parent.name}/{changed.name}; missing: 1)" in said


def test_without_a_run_folder_no_config_is_written(words: list[str]) -> None:
    Path("config.yaml").write_text("mine: 1\n")
    main(["fit", *words, "--trainer.max_epochs", "1", "--trainer.logger", "false"])
    assert Path("config.yaml").read_text() == "mine: 1\n"


def test_a_checkpoint_outside_of_a_run_folder_is_not_resumed(
    refused: Refused, finished: Path
) -> None:
    shutil.copy(finished / "checkpoints" / "last.ckpt", "alone.ckpt")
    said = refused("fit", "--ckpt_path", "alone.ckpt")
    assert "alone.ckpt is not in a run folder (looked for " in said
    assert "Give a run folder" in said


def test_the_config_of_a_resumed_run_repeats_all_of_it(fit: Callable[..., Path]) -> None:
    run = fit("--config", "d16", "--model.dropout", "0", name="d16", epochs=1)
    main(["fit", "--name", "d16", "--ckpt_path", "last", "--trainer.max_epochs", "3"])
    settings = yaml.safe_load((run / "config.yaml").read_text())
    assert (settings["trainer"]["max_epochs"], settings["ckpt_path"]) == (3, None)
    main(["fit", "--config", str(run / "config.yaml")])
    again = Path("lightning_logs/d16/version_1")
    assert_equal(*(weights(r / "checkpoints" / "last.ckpt") for r in (run, again)))


def test_a_run_that_diverges_stops_and_keeps_what_it_has(
    refused: Refused, words: list[str]
) -> None:
    said = refused("fit", *words, "--model.lr", "1e30", "--trainer.max_epochs", "3")
    assert (
        "the loss is NaN or infinite in step 2 of epoch 1, with model.lr=1e+30 (images: TRAIN/"
        in said
    )
    assert "Start a new run with a lower --model.lr: there is no checkpoint to resume." in said
    assert not list(Path().rglob("*.ckpt"))
    assert not list(Path().rglob("scores.json"))


def test_a_run_stopped_in_its_test_is_tested_when_it_goes_on(fit: Callable[..., Path]) -> None:
    run = fit(epochs=1)
    before = (run / "predictions.csv").read_text()
    for name in ("scores.json", "predictions.csv"):
        (run / name).unlink()
    main(["fit", "--ckpt_path", str(run)])
    assert (run / "predictions.csv").read_text() == before
    assert (run / "scores.json").is_file()
    assert len(read_history(run / "metrics.csv")) == 1


def test_a_checkpoint_may_stand_in_a_config(
    finished: Path, refused: Refused, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("mine.yaml").write_text("ckpt_path: some.ckpt\n")
    assert "--ckpt_path some.ckpt" in refused("fit", "--config", "mine.yaml")
    Path("mine.yaml").write_text(f"ckpt_path: {finished}\n")
    assert "is finished after epoch 2" in refused("fit", "--config", "mine.yaml")
    main(["test", "--config", "mine.yaml", "--trainer.accelerator", "cpu"])
    assert f"{finished.name}" in capsys.readouterr().out
    said = refused("test", "--config", "mine.yaml", "--ckpt_path", "other.ckpt")
    assert "--ckpt_path other.ckpt" in said, "the command line wins"


def test_a_bad_image_is_told_before_there_is_a_run_folder(
    refused: Refused, words: list[str], smears_copy: Path
) -> None:
    bad = next((smears_copy / "images" / "TEST").rglob("*.jpeg"))
    bad.write_bytes(bad.read_bytes()[:2000])
    said = refused("fit", *words, "--data.root", str(smears_copy / "images"))
    assert f"{bad.name} (" in said
    assert not Path("lightning_logs").exists()


def test_skipped_images_are_not_counted(fit: Callable[..., Path], smears_copy: Path) -> None:
    bad = next((smears_copy / "images" / "TEST").rglob("*.jpeg"))
    bad.write_bytes(b"")
    root = ("--data.root", str(smears_copy / "images"), "--data.unreadable", "skip")
    scores = json.loads((fit(*root, epochs=1) / "scores.json").read_text())
    assert scores["files"]["test"] == 4 * 5 * 2 - 1
    assert scores["unreadable_files_left_out"] == 1


def test_part_of_a_test_says_so(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = ["test", "--ckpt_path", str(finished), "--trainer.accelerator", "cpu"]
    main([*run, "--trainer.limit_test_batches", "1"])
    said = capsys.readouterr().out
    assert f"scored         {os.path.relpath(finished / 'checkpoints' / 'best.ckpt')}\n" in said
    assert "PARTIAL        8 images of the part were not scored" in said


@pytest.mark.parametrize("setting", ["trainer.limit_train_batches", "trainer.overfit_batches"])
def test_part_of_the_training_says_so(
    setting: str, fit: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run = fit("--data.batch_size", "4", f"--{setting}", "2", epochs=1)
    scores = json.loads((run / "scores.json").read_text())
    files = scores["files"]["train"]
    assert scores["limited_training"] == {"used": 8, "files": files, "setting": setting}
    said = f"each epoch trained on 8 of {files} training files ({setting})"
    assert f"PARTIAL        {said}" in capsys.readouterr().out
    assert f"- PARTIAL: {said}\n" in (run / "MODEL_CARD.md").read_text()
    main(["verify", str(run), "--trainer.accelerator", "cpu"])


def test_whole_epochs_are_no_part(
    fit: Callable[..., Path], finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "limited_training" not in json.loads((finished / "scores.json").read_text())
    draws = ("--data.balance", "classes", "--data.draws", "8", "--data.batch_size", "4")
    run = fit(*draws, "--trainer.limit_train_batches", "1.0", epochs=1)
    assert "limited_training" not in json.loads((run / "scores.json").read_text())
    assert "PARTIAL" not in capsys.readouterr().out
    fit(*draws, "--trainer.limit_train_batches", "1", "--trainer.logger", "false", epochs=1)
    assert "each epoch trained on 4 of " in capsys.readouterr().out


@pytest.mark.parametrize(
    "off", ["logger", "enable_progress_bar", "enable_checkpointing", "enable_model_summary"]
)
def test_what_lightning_lets_switch_off(
    off: str, fit: Callable[..., Path], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    main(["fit", *words, "--trainer.max_epochs", "1", f"--trainer.{off}", "false"])
    assert Path("lightning_logs").exists() == (off != "logger")
    assert bool(list(Path().rglob("*.ckpt"))) == (off not in ("logger", "enable_checkpointing"))
    printed = capsys.readouterr().out
    last_weights = "custom, last weights" in printed
    assert last_weights == (off == "logger")
    told = "no epoch was validated, or trainer.enable_checkpointing is false" in printed
    assert told == (off == "enable_checkpointing")


def test_another_logger_comes_beside_ours(fit: Callable[..., Path]) -> None:
    run = fit("--trainer.logger", "CSVLogger", "--trainer.logger.save_dir", "theirs", epochs=1)
    assert (run / "scores.json").is_file()
    assert list(Path("theirs").rglob("metrics.csv"))


@pytest.mark.parametrize(
    "words_too_many",
    [
        ("--trainer.strategy", "dpp"), ("--trainer.devices", "0"), ("--trainer.max_time", "xx"),
        ("--trainer.accelerator", "tpu"), ("--trainer.barebones", "true"),
        ("--name", "../up"), ("--name", "a/b"),
    ],
)  # fmt: skip
def test_settings_lightning_refuses(
    words_too_many: tuple[str, ...], refused: Refused, words: list[str]
) -> None:
    said = refused("fit", *words, *words_too_many)
    assert said.startswith("bloodcell: ")
    assert not Path("lightning_logs").exists()


def test_under_slurm_lightning_does_not_requeue(
    fit: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"NTASKS": 1, "JOB_NAME": "x", "JOB_ID": 1, "PROCID": 0, "LOCALID": 0, "NODEID": 0}
    for name, value in (settings | {"NODELIST": "localhost"}).items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    seen = []
    monkeypatch.setattr(
        "bloodcell.cli.training.finish_fit",
        lambda trainer, *_: seen.append(trainer._accelerator_connector.cluster_environment),
    )
    fit("--trainer.num_nodes", "1", "--trainer.devices", "1", epochs=1)
    assert isinstance(seen[0], SLURMEnvironment)
    assert not seen[0].auto_requeue


def test_full_augmentation_trains_and_is_shown(fit: Callable[..., Path]) -> None:
    run = fit("--data.augment", "full", epochs=1)
    assert read_history(run / "metrics.csv")[0].train_loss > 0


def test_a_frozen_trunk_stays_as_it_came(fit: Callable[..., Path]) -> None:
    run = fit("--model.freeze", "true", "--model.lr", "1e-2", epochs=2)
    state = weights(run / "checkpoints" / "last.ckpt")
    other = fit("--model.freeze", "true", "--model.lr", "1e-1", "--name", "other", name="other")
    others = weights(other / "checkpoints" / "last.ckpt")
    trunk = [key for key in state if key.startswith("network.trunk")]
    assert all(torch.equal(state[key], others[key]) for key in trunk)
    assert not torch.equal(state[WEIGHTS], others[WEIGHTS])


def test_training_is_the_same_wherever_the_images_lie(fit: Callable[..., Path]) -> None:
    """Resident or gathered from the memory map, from the cache or decoded at the start."""
    ways = (["on_device", "true"], ["on_device", "false"], ["cache_gib", "0"])
    runs = [fit(f"--data.{key}", value, "--data.augment", "full") for key, value in ways]
    first, *others = (weights(run / "checkpoints" / "last.ckpt") for run in runs)
    for other in others:
        assert_equal(first, other)


def record_batches(
    monkeypatch: pytest.MonkeyPatch, key: Literal["row", "target"]
) -> list[list[int]]:
    """Returns a list that gets the rows or the targets of each training batch."""
    seen: list[list[int]] = []
    step = Classifier.training_step

    def training_step(self: Classifier, batch: Batch, batch_idx: int) -> torch.Tensor:
        seen.append(batch[key].tolist())
        return step(self, batch, batch_idx)

    monkeypatch.setattr(Classifier, "training_step", training_step)
    return seen


def test_overfit_batches_are_the_same_each_epoch(
    fit: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = record_batches(monkeypatch, "row")
    fit("--trainer.overfit_batches", "2", "--data.batch_size", "4", epochs=3)
    assert len(seen) == 6
    assert seen[:2] == seen[2:4] == seen[4:]


def test_overfit_batches_have_several_classes(
    fit: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table is sorted by class, so its first rows are of one class."""
    seen = record_batches(monkeypatch, "target")
    fit("--trainer.overfit_batches", "2", "--data.batch_size", "8", epochs=1)
    assert len(seen) == 2
    assert all(len(set(classes)) >= 3 for classes in seen)


def test_gradients_are_clipped_in_mixed_precision(fit: Callable[..., Path]) -> None:
    """Lightning clips none of a fused optimizer, so this one is not fused."""
    mixed = ["--trainer.precision", "bf16-mixed"]
    run = fit("--trainer.gradient_clip_val", "0.1", *mixed, epochs=1)
    assert len(read_history(run / "metrics.csv")) == 1
    for place, clip in enumerate(("null", "0.1"), 2):  # a run goes on with another setting
        words = ["--trainer.max_epochs", str(place), "--trainer.gradient_clip_val", clip]
        main(["fit", "--ckpt_path", str(run), *words])
        assert len(read_history(run / "metrics.csv")) == place


@pytest.mark.gpu
@pytest.mark.parametrize("on_device", ["true", "false"])
def test_no_step_waits_for_the_gpu(
    fit: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, on_device: str
) -> None:
    """From the second step of an epoch to its last, whatever waits for the device is an error."""

    def watch(self: Classifier, batch: Batch, batch_idx: int) -> None:
        torch.cuda.set_sync_debug_mode("error" if batch_idx else "default")

    def look_away(self: Classifier) -> None:
        torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(Classifier, "on_train_batch_start", watch)
    monkeypatch.setattr(Classifier, "on_validation_start", look_away)
    monkeypatch.setattr(Classifier, "on_train_epoch_end", look_away)
    gpu = ["--trainer.accelerator", "gpu", "--trainer.devices", "1"]
    run = fit(*gpu, "--data.on_device", on_device, "--data.batch_size", "4", epochs=1)
    assert len(read_history(run / "metrics.csv")) == 1


def test_a_training_that_starts_from_an_own_model(
    words: list[str], finished: Path, refused: Refused
) -> None:
    saved = load_saved(finished)
    write_saved(saved, Path("own.safetensors"))
    words = [*words, "--model.weights", "own.safetensors"]
    started = Classifier(list("abcd"), 32, "test_efficientnet", "own.safetensors")
    assert started.pretrained_config.source == "own.safetensors"
    for name, value in started.network.trunk.named_parameters():
        trained = saved.network.trunk.state_dict()[name]
        torch.testing.assert_close(value, trained, rtol=1e-3, atol=1e-4)  # it is in half precision
    main(["fit", *words, "--trainer.fast_dev_run", "true"])
    said = refused("fit", *words, "--data.split", "folds")
    assert "model.weights=own.safetensors were trained on" in said
    assert "test images, so the test would measure memorisation" in said
    with pytest.warns(
        UserWarning, match=r"of the \d+ validation images: scores on them will be too high"
    ):
        main(["fit", *words, "--seed_everything", "1", "--trainer.fast_dev_run", "true"])


def test_the_bundled_weights_start_a_training() -> None:
    model = Classifier(list("abcd"), 64, "mobilenetv1_100", "bundled")
    assert model.pretrained_config.source == "bundled"
    assert model.pretrained_config.options == {
        "pad_type": "same",
        "bn_eps": 1e-3,
        "bn_momentum": 0.01,
    }
    trunk = load_saved(find_bundled()).network.trunk.state_dict()
    found = model.network.trunk.state_dict()
    assert all(torch.equal(found[name], trunk[name]) for name in trunk if "num_batches" not in name)
    with pytest.raises(InputError, match=r"'bundled' does not fit model.backbone='mobilenetv3"):
        Classifier(list("abcd"), 64, "mobilenetv3_small_050", "bundled")


@pytest.mark.parametrize("place", ["~/runs", "$HOME/runs"])
def test_runs_in_the_home_folder(
    place: str,
    fit: Callable[..., Path],
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    root = ["--trainer.default_root_dir", place]
    main(["fit", *words, *root, "--trainer.max_epochs", "1"])
    assert Path("home/runs/lightning_logs/custom/version_0/scores.json").is_file()
    assert not Path(place).exists()
    with pytest.raises(SystemExit) as stopped:
        main(["fit", *words, *root, "--trainer.max_epochs", "1", "--resume", "auto"])
    assert stopped.value.code == 0
    assert "is finished: nothing is left to do" in capsys.readouterr().out
