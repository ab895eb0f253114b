import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from bloodcell.errors import InputError
from bloodcell.train.resume import is_finished, last_checkpoints, run_folder
from bloodcell.train.runs import RunLogger, check_same, settings


def test_runs_started_at_once_get_folders_of_their_own(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        loggers = list(pool.map(lambda _: RunLogger(tmp_path, "d8").version, range(32)))
    assert sorted(loggers, key=int) == list(range(32))


def test_all_processes_know_the_run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rollback reads its checkpoint in each of them."""
    monkeypatch.setattr("lightning.pytorch.utilities.rank_zero_only.rank", 1)
    other = RunLogger(tmp_path, "d8")
    assert other.version == 0
    first: Any = SimpleNamespace(strategy=SimpleNamespace(broadcast=lambda _: 5))
    other.agree(first)
    assert other.log_dir == str(tmp_path / "d8" / "version_5")


def test_a_resumed_run_writes_where_it_was(tmp_path: Path) -> None:
    resumed = tmp_path / "d8" / "version_3"
    assert RunLogger(Path("elsewhere"), "d16", resumed).log_dir == str(resumed)


def test_last_is_the_newest_with_a_checkpoint(tmp_path: Path) -> None:
    runs = tmp_path / "lightning_logs" / "d8"
    for version in (2, 9, 10, 11):
        (runs / f"version_{version}" / "checkpoints").mkdir(parents=True)
    for version in (2, 9, 10):
        (runs / f"version_{version}" / "checkpoints" / "last.ckpt").touch()
    (found,) = last_checkpoints("last", tmp_path, "d8")
    assert found == runs / "version_10" / "checkpoints" / "last.ckpt"
    (other,) = last_checkpoints(str(runs / "version_9"), tmp_path, "d8")
    assert other.parts[-3] == "version_9"
    with pytest.raises(InputError, match="is not in a run folder"):  # it has no config.yaml
        run_folder(found)
    (runs / "version_10" / "config.yaml").touch()
    assert run_folder(found) == runs / "version_10"
    with pytest.raises(InputError, match=r"version_11: no checkpoint there \(looked for .*last"):
        last_checkpoints(str(runs / "version_11"), tmp_path, "d8")


def test_only_a_run_that_goes_on_can_be_started_again() -> None:
    checkpoint = {"hyper_parameters": {"dropout": 0.5}, "datamodule_hyper_parameters": {"seed": 0}}
    config: dict[str, Any] = {"model": {}, "data": {}}
    for key, value in settings(checkpoint).items():
        group, _, name = key.rpartition(".")
        (config[group] if group else config)[name] = value
    check_same(checkpoint, config, also_data=True)
    config["data"]["margin"] = 0.25
    with pytest.raises(InputError, match=r"data\.margin=0\.25, but .* made with 0\.0"):
        check_same(checkpoint, config, also_data=True)
    config["data"]["margin"] = 0.0
    config["model"]["dropout"] = 0.3
    rule = r"model\.dropout=0\.3, but .* 0\.5, which cannot change now\. Leave it out"
    with pytest.raises(InputError, match=rf"{rule}, or start a new run without --ckpt_path\.$"):
        check_same(checkpoint, config, also_data=True)
    with pytest.raises(InputError, match=rf"{rule}\.$"):
        check_same(checkpoint, config, also_data=False)


def test_a_run_without_limits_may_be_finished(tmp_path: Path) -> None:
    """Lightning then trains for at most 1,000 epochs."""
    none = {"max_epochs": None, "max_steps": -1}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"trainer": none}))
    last = tmp_path / "checkpoints" / "last.ckpt"
    assert not is_finished(last, none)
    (tmp_path / "scores.json").write_text(json.dumps({"limits": none | {"max_epochs": 1000}}))
    assert is_finished(last, none)
    assert not is_finished(last, none | {"max_epochs": -1})
    assert not is_finished(last, none | {"max_epochs": 1001})
