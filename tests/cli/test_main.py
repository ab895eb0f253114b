import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bloodcell.cli import manual
from bloodcell.cli.configs import SHIPPED, find_config
from bloodcell.cli.main import main
from bloodcell.data.datamodule import BloodCells
from bloodcell.errors import InputError, listed
from bloodcell.train.task import Classifier

Refused = Callable[..., str]


def run(*words: str, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bloodcell", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload, no-any-return]


@pytest.mark.parametrize("verb", [[], *([verb] for verb in manual.VERBS)])
def test_help_comes_without_the_heavy_libraries(verb: list[str]) -> None:
    code = (
        "import sys; from bloodcell.cli.main import main; main(sys.argv[1:]);"
        "assert not {'torch', 'lightning', 'timm', 'sklearn'} & sys.modules.keys()"
    )
    words = [sys.executable, "-c", code, *verb, "--help"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: bloodcell")
    assert max(len(line) for line in done.stdout.splitlines()) <= 100


def test_help_lists_every_setting_with_its_text() -> None:
    page = manual.verb_page("fit")
    for name, kind in (("data", BloodCells), ("model", Classifier)):
        for argument in manual.read_arguments(
            Path(sys.modules[kind.__module__].__file__ or ""), kind.__name__
        ):
            assert argument.text, f"{name}.{argument.name} has no text"
            key = f"{name}.{argument.name}"
            linked = key in ("data.seed", "model.class_names", "model.image_size")
            assert (f"--{key} " in page) != linked


def test_python_m_and_version() -> None:
    done = run("--version")
    assert done.returncode == 0
    assert done.stdout.startswith("bloodcell ")


def test_no_verb_shows_the_front_page(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([])
    assert stopped.value.code == 2
    assert "verbs:" in capsys.readouterr().out


def test_a_wrong_verb(refused: Refused) -> None:
    assert "no verb 'fti'. Did you mean 'fit'? Verbs: fit, validate, test" in refused("fti")
    assert "Did you mean 'fit'?" in refused("train")
    assert "Did you mean" not in refused("frobnicate")
    assert "'--config' stands where a verb is expected" in refused("--config", "d8.yaml", "fit")


def test_a_wrong_config(refused: Refused) -> None:
    said = refused("fit", "--config", "d8_d9.yaml")
    assert (
        "--config d8_d9.yaml: no such file. Did you mean d8_d8.yaml? Shipped: best.yaml, " in said
    )
    assert "--config stands without a name" in refused("fit", "--config")


def test_a_wrong_key(refused: Refused) -> None:
    assert "Did you mean 'model.dropout'?" in refused("fit", "--model.dropuot", "0.1")
    Path("bad.yaml").write_text("model:\n  hiden: [8]\n")
    assert "Did you mean 'model.hidden'?" in refused("fit", "--config", "bad.yaml")


def test_a_wrong_value(refused: Refused) -> None:
    said = refused("fit", "--data.split", "random")
    assert "data.split" in said
    assert "one of photo, seed, folds, train_folds. Got value: random." in said
    assert "Did you mean" not in said
    assert "model.lr" in refused("fit", "--model.lr", "fast")


def test_configs_are_found_by_name() -> None:
    assert find_config("d8") == find_config("d8.yaml") == SHIPPED / "d8.yaml"
    Path("configs").mkdir()
    Path("configs/d8.yaml").write_text("model: {lr: 0.1}\n")
    assert find_config("d8") == Path("configs/d8.yaml")
    Path("d8.yaml").write_text("model: {lr: 0.2}\n")
    assert find_config("d8.yaml") == Path("d8.yaml")
    with pytest.raises(InputError, match=r"Did you mean demo\.yaml\?"):
        find_config("dmo")


def test_lists_in_messages_are_short() -> None:
    assert listed([]) == "nothing"
    assert listed(["a", "b", "c"], most=2) == "a, b and 1 more"


def test_configs_that_hold_no_settings(refused: Refused) -> None:
    Path("empty.yaml").write_text("")
    assert "--config empty.yaml holds no settings" in refused("fit", "--config", "empty.yaml")
    Path("bad.yaml").write_text("model: [")
    assert "--config bad.yaml is no YAML in UTF-8" in refused("fit", "--config", "bad.yaml")
    Path("bad.yaml").write_bytes(b"\xff\xfe\x00")
    assert "--config bad.yaml is no YAML in UTF-8" in refused("fit", "--config", "bad.yaml")


def test_flags_without_a_value_or_misspelt(refused: Refused) -> None:
    assert "--ckpt_path stands without a value" in refused("test", "--ckpt_path")
    assert "Did you mean 'config'?" in refused("fit", "--confg", "d8.yaml")
    assert "Did you mean 'trainer.max_epochs'?" in refused("fit", "--trainer.max_epoch", "3")
    assert "a list, e.g. [8]" in refused("fit", "--model.hidden", "8")


def test_all_choices_are_listed(refused: Refused) -> None:
    said = refused("fit", "--model.compile", "fast")
    assert "Expected one of auto, false, default, reduce-overhead, max-autotune. Got" in said
    assert said.endswith("See `bloodcell fit --help`.\n")
    said = refused("benchmark", "--data.on_device", "maybe")
    assert "data.on_device: Expected one of auto, true, false. Got value: maybe" in said
    assert said.endswith("See `bloodcell benchmark --help`.\n")
    assert "Expected one of photo, seed, folds" in refused("fit", "--data.split", "none")


def test_help_all_lists_lightnings_options(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("fit", "test"):
        with pytest.raises(SystemExit) as stopped:
            main([verb, "--help-all"])
        assert stopped.value.code == 0
        assert "--trainer.gradient_clip_val" in capsys.readouterr().out


def test_download_takes_no_options(refused: Refused) -> None:
    assert "download takes no other words (got: now)" in refused("download", "now")


def test_print_config_needs_no_training(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "--config", "d16", *words, "--print_config"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    assert "- 16" in shown
    assert "split: seed" in shown


def test_ctrl_c_ends_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted() -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr("bloodcell.datasets.kaggle.download", interrupted)
    with pytest.raises(SystemExit) as stopped:
        main(["download"])
    assert stopped.value.code == 130
    assert capsys.readouterr().err == "\nbloodcell: stopped.\n"


def test_whole_numbers_of_batches_stay_whole(words: list[str]) -> None:
    """As a user has it: in a process that imports what the command line imports, in its order."""
    done = run("fit", *words, "--trainer.limit_test_batches", "1", "--print_config")
    assert "\n  limit_test_batches: 1\n" in done.stdout, done.stderr


def test_a_closed_pipe_is_no_error() -> None:
    words = f"{sys.executable} -m bloodcell fit --help | head -1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", words], capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stderr
    assert done.stdout.startswith("usage")
