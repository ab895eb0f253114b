import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bloodcell.cli.main import main

Refused = Callable[..., str]


def test_every_stage_is_measured(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--batch_sizes", "[4,8]", "--seconds", "0.2", "--out", "speeds.json"]
    stops = ["--trainer.callbacks+", "EarlyStopping", "--trainer.callbacks.monitor", "val/loss"]
    words = [*words, *stops, "--data.augment", "full", "--model.compile", "false"]
    words += ["--model.schedule", "cosine"]
    main(["benchmark", *words, *sizes])
    said = json.loads(Path("speeds.json").read_text())
    assert [speeds["batch_size"] for speeds in said["images_per_second"]] == [4, 8]
    for speeds in said["images_per_second"]:
        rates = [speeds[stage] for stage in ("data", "network", "training", "inference")]
        assert all(math.isfinite(rate) and rate > 0 for rate in rates)
        assert speeds["not_network"] < 1
        assert speeds["not_network_error"] > 0
        assert speeds["memory_gib"] is None
        assert speeds["compiled"] is False
    assert said["cache_build_images_per_second"] > 0
    assert said["data"]["augment"] == "full"
    assert said["model"]["weights"] == "none"
    assert (said["seconds"], said["rounds"]) == (0.2, 15)
    assert said["machine"]["versions"]["torch"]
    assert said["threads"] == torch.get_num_threads()
    printed = capsys.readouterr().out
    assert "batch 4: " in printed.partition("network alone")[0], "said when it is measured"
    assert "network alone" in printed
    assert "time outside the network" in printed
    assert f"{said['threads']} thread" in printed
    assert not Path("lightning_logs").exists()
    assert list(Path("cache").rglob("tmp*")) == []


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
@pytest.mark.parametrize("fails", [False, True])
def test_the_traffic_of_a_compiled_network(
    words: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    fails: bool,
) -> None:
    def count_nothing(*_: object) -> None:
        raise RuntimeError("out of memory")

    if fails:
        monkeypatch.setattr("bloodcell.train.traffic.count_traffic", count_nothing)
    sizes = ["--batch_sizes", "[4]", "--seconds", "0.2", "--out", "speeds.json"]
    main(["benchmark", *words, *sizes, "--model.compile", "default"])
    (speeds,) = json.loads(Path("speeds.json").read_text())["images_per_second"]
    printed = capsys.readouterr().out
    assert speeds["training"] > 0
    assert ("of the least traffic" in printed) != fails
    if fails:
        assert speeds["kernels"] is speeds["traffic_mb"] is speeds["of_least"] is None
    else:
        assert speeds["kernels"] > 20
        assert speeds["of_least"] > 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            ["--batch_sizes", "[0]"],
            "--batch_sizes=[0] cannot be used: it must be a list of batch sizes over 0",
        ),
        (["--batch_sizes", "[45]"], "--batch_sizes=[45] cannot be used: it must be at most 44"),
        (["--seconds", "0"], "--seconds=0.0 cannot be used: it must be over 0"),
        (["--out", "."], "--out=. cannot be used: it must be a file ending in .json"),
        (["--trainer.devices", "2"], "trainer.devices=2 cannot be used: it must be 1"),
    ],
)
def test_settings_that_cannot_be_measured(
    words: list[str], refused: Refused, given: list[str], message: str
) -> None:
    assert message in refused("benchmark", *words, *given)
