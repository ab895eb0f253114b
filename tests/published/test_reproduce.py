"""`reproduce`: with a stand-in for training where only the order of things matters."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from PIL import Image

from bloodcell.cli.main import main
from bloodcell.evaluate.published import PUBLISHED
from bloodcell.machine import usable_cpus
from bloodcell.published import crew, devices, reproduce
from bloodcell.published.devices import list_devices

Refused = Callable[..., str]

# what a run leaves behind, without training; files say what happens to it
FIT = """
import json, shutil, sys, time
from pathlib import Path
import yaml
words = dict(zip(sys.argv[2::2], sys.argv[3::2]))
Path("calls.txt").open("a").write(" ".join(sys.argv[2:]) + "\\n")
if "--ckpt_path" in words:
    folder = Path(words["--ckpt_path"])
else:
    runs = Path(words["--trainer.default_root_dir"]) / "lightning_logs" / words["--name"]
    if "drawn" in words.get("--data.root", ""):
        runs = runs.with_name(runs.name + "-drawn")
    folder = runs / f"version_{words['--seed_everything']}"
    shutil.copytree(sys.argv[1], folder)
    (folder / "scores.json").unlink()
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    settings["seed_everything"] = int(words["--seed_everything"])
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
if Path("fail").exists():
    sys.exit("no luck")
if Path("bad").exists():
    shutil.rmtree(folder)
    print("bloodcell: data.root is bad.", file=sys.stderr)
    print("said before, but written late")
    sys.exit(2)
if Path("breaks").exists():
    (folder / "checkpoints").mkdir(exist_ok=True)
    (folder / "checkpoints" / "last.ckpt").touch()
    sys.exit(2)
if Path("silent").exists():
    sys.exit(0)
print("about 0:10:05 left, 250 ms per batch")
print("epoch   1 of 8", flush=True)
if Path("hang").exists():
    (folder / "checkpoints").mkdir(exist_ok=True)
    (folder / "checkpoints" / "last.ckpt").touch()
    for _ in range(600):
        time.sleep(0.1)
        if Path("stop").exists():
            sys.exit(1)
scores = json.loads((Path(sys.argv[1]) / "scores.json").read_text())
scores["name"], scores["split"] = folder.parent.name, "seed" if "seed" in str(folder) else "photo"
(folder / "scores.json").write_text(json.dumps(scores))
"""


def width(path: Path | str) -> int:
    with Image.open(path) as image:
        return image.width


@pytest.fixture
def stand_in(
    tmp_path: Path, write_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> tuple[str, ...]:
    """Replaces training."""
    (tmp_path / "fit.py").write_text(FIT)
    template = write_run(tmp_path / "template" / "version_0", 0.9)
    command = (sys.executable, str(tmp_path / "fit.py"), str(template))
    monkeypatch.setattr(crew, "_FIT", command)
    return command


def calls() -> list[str]:
    return Path("calls.txt").read_text().splitlines()


@pytest.mark.usefixtures("stand_in")
def test_all_runs_their_table_and_their_figures(capsys: pytest.CaptureFixture[str]) -> None:
    main(["reproduce", "--seeds", "2", "--fast", "--jobs", "2", "--model.lr", "1"])
    assert len(calls()) == 2 * 2 * 7
    first = next(call for call in calls() if "d8-seed-fast" in call and "everything 0" in call)
    assert "--config d8.yaml" in first
    fast = "max_epochs 24 --model.lr 3.0625e-05 --data.batch_size 8"
    assert f"{fast} --model.lr 1 " in first, "the user's options come last and win"
    assert "--data.split seed" in first
    said = capsys.readouterr().out
    assert "d8-seed-fast, seed 0: test 0.9000, by photograph 0.9000, 0:01:01" in said
    assert "d8-photo-fast, seed 1: epoch   1 of 8" in said
    assert said.count("all 28 runs: at most 2:21:10, if each takes as long\n") == 1
    out = Path("reproduced-fast")
    names = [f"{number}.png" for number in range(1, 8)]
    for name in (*names, "compared_model_graph.png"):
        assert width(out / name) == 1200
    table = (out / "table.md").read_text().splitlines()
    assert table[0].startswith("FAST, not as published: 128 pixels; 24 epochs")
    assert table[0].endswith("1e-05, 5e-05 and 16 for 5e-05, 0.0001 and 32 for 0.0001 model.lr 1")
    assert [line.split(" | ")[0] for line in table[4:11]] == [f"| {row.name}" for row in PUBLISHED]
    d8 = table[4].split(" | ")
    assert (d8[7], d8[9]) == ("0.9920", "-0.0920")
    assert d8[8].startswith("0.9000 [0.8")


@pytest.mark.usefixtures("stand_in")
def test_what_is_finished_is_kept_and_the_rest_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["reproduce", "--seeds=1", "--splits", "seed"]
    main(words)
    assert "all 7 runs: at most " in capsys.readouterr().out
    run = Path("reproduced/lightning_logs/d16-seed/version_0")
    (run / "scores.json").unlink()
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "last.ckpt").touch()
    Path("calls.txt").unlink()
    capsys.readouterr()
    main(words)
    assert calls() == [f"--ckpt_path {run}"]
    said = capsys.readouterr().out
    assert "7 runs in reproduced: 6 finished, 1 to do" in said
    assert "all 1 runs" not in said, "the rest of a run is shorter than a run"
    Path("calls.txt").unlink()
    main(words)
    assert not Path("calls.txt").exists()


def test_the_message_of_an_earlier_attempt_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "_FIT", [sys.executable])
    said = list[str]()
    for code in ("import sys; sys.exit('bloodcell: no space')", "import sys; sys.exit(1)"):
        job = crew.Job("d8", ["-c", code], Path("logs/d8.txt"))
        crew.Crew([{}], []).run([job], lambda job, _: said.append(job.complaint()))
    assert said == ["no space", "it ended without a message"]


@pytest.mark.usefixtures("stand_in")
def test_a_failed_run_does_not_stop_the_others(refused: Refused) -> None:
    Path("fail").touch()
    said = refused("reproduce", "--seeds", "1", "--splits", "photo")
    log = "reproduced/logs/d8-photo-0.txt"
    assert f"failed: d8-photo, seed 0 (exit status 1 and no scores, see {log}), d16-" in said
    assert len(calls()) == 7
    assert "no luck" in Path("reproduced/logs/d8-photo-0.txt").read_text()


@pytest.mark.usefixtures("stand_in")
def test_a_setting_that_cannot_be_used_stops_at_once(refused: Refused) -> None:
    Path("bad").touch()
    said = refused("reproduce", "--data.root", "nowhere")
    assert "d8-seed, seed 0: data.root is bad." in said
    assert len(calls()) == 1
    Path("bad").unlink()
    main(["reproduce", "--data.root", "somewhere", "--seeds", "1", "--splits", "seed"])


@pytest.mark.usefixtures("stand_in")
def test_a_run_that_breaks_when_it_has_begun_stops_no_other(refused: Refused) -> None:
    """A loss that is no number also ends with status 2."""
    Path("breaks").touch()
    said = refused("reproduce", "--seeds", "1", "--splits", "seed")
    assert "d8-seed, seed 0 (exit status 2 and no scores" in said
    assert len(calls()) == 7


@pytest.mark.usefixtures("stand_in")
def test_a_run_that_leaves_no_scores_has_failed(refused: Refused) -> None:
    Path("silent").touch()
    said = refused("reproduce", "--seeds", "1", "--splits", "seed")
    assert "d8-seed, seed 0 (exit status 0 and no scores" in said


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize("root", ["drawn", "[drawn, pbc]"])
def test_drawn_smears_have_their_name(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["reproduce", "--seeds", "1", "--splits", "photo", "--data.root", root]
    main(words)
    assert Path("reproduced/lightning_logs/d8-photo-drawn").is_dir()
    main(words)
    assert len(calls()) == 7
    assert "7 finished, 0 to do" in capsys.readouterr().out


@pytest.mark.parametrize(("sent", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_what_is_stopped_goes_on_by_the_same_command(
    stand_in: tuple[str, ...], sent: signal.Signals, status: int
) -> None:
    Path("hang").touch()
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from bloodcell.published import crew; from bloodcell.cli.main import main\n"
        f"crew._FIT = {stand_in!r}\n"
        "main(['reproduce', '--seeds', '1', '--splits', 'seed'])"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    checkpoint = Path("reproduced/lightning_logs/d8-seed/version_0/checkpoints/last.ckpt")
    wait_for(checkpoint)
    child.send_signal(sent)
    out, err = child.communicate(timeout=30)
    assert child.returncode == status, err
    assert "no finished run in reproduced yet" in out
    assert "Traceback" not in err
    assert len(calls()) == 1
    Path("hang").unlink()
    main(["reproduce", "--seeds", "1", "--splits", "seed"])
    assert calls()[1] == f"--ckpt_path {checkpoint.parent.parent}"
    assert len(calls()) == 1 + 7


def test_a_killed_reproduce_leaves_no_second_run_beside_its_own(
    stand_in: tuple[str, ...], refused: Refused
) -> None:
    Path("hang").touch()
    code = (
        "from bloodcell.published import crew; from bloodcell.cli.main import main\n"
        f"crew._FIT = {stand_in!r}\n"
        "main(['reproduce', '--seeds', '1', '--splits', 'seed'])"
    )
    words = ["reproduce", "--seeds", "1", "--splits", "seed"]
    checkpoint = Path("reproduced/lightning_logs/d8-seed/version_0/checkpoints/last.ckpt")
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL) as child:
        wait_for(checkpoint)
        assert "another `bloodcell reproduce` is running there" in refused(*words)
        child.kill()
    assert "another `bloodcell reproduce` is running there" in refused(*words), (
        "its run is still there"
    )
    Path("stop").touch()
    Path("hang").unlink()
    for _ in range(100):
        time.sleep(0.1)
        try:
            main(words)
        except SystemExit:
            continue
        break
    assert calls()[1] == f"--ckpt_path {checkpoint.parent.parent}"


def wait_for(path: Path) -> None:
    for _ in range(300):
        if path.exists():
            return
        time.sleep(0.1)


@pytest.mark.usefixtures("stand_in")
def test_a_folder_holds_runs_of_one_kind(refused: Refused) -> None:
    main(["reproduce", "--seeds", "1", "--splits", "seed", "--data.augment", "flips"])
    said = refused("reproduce", "--seeds", "1")
    assert "reproduced contains runs with other options (--data.augment flips)" in said
    assert "contains runs with other options" in refused(
        "reproduce", "--seeds", "1", "--model.lr=1"
    )
    Path("mine/lightning_logs/d8/version_0").mkdir(parents=True)
    Path("mine/lightning_logs/d8/version_0/config.yaml").touch()
    said = refused("reproduce", "--out", "mine")
    assert "--out mine contains runs with other options (unknown)" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seeds", "0"], "--seeds=0 cannot be used: it must be a whole number, 1 or more"),
        (["--jobs", "two"], "--jobs=two cannot be used"),
        (
            ["--splits", "folds"],
            "--splits=folds cannot be used: it must be seed, photo or seed,photo",
        ),
        (["--config", "d8.yaml"], "reproduce sets --config itself"),
        (["--data.split=photo"], "reproduce sets --data.split itself"),
        (["d8.yaml"], "reproduce takes options only (got: d8.yaml)"),
        (["--out"], "--out needs a value"),
        (["--out="], "--out needs a value"),
        (["--jobs", "²"], "--jobs=² cannot be used"),
    ],
)
def test_words_that_cannot_be_used(refused: Refused, words: list[str], message: str) -> None:
    assert message in refused("reproduce", *words)
    assert list(Path().glob("reproduced*")) == []


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="only on Linux")
def test_a_job_that_is_bound_to_one_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3})
    assert usable_cpus() == 1


def test_each_gpu_gets_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,2")
    assert [device["CUDA_VISIBLE_DEVICES"] for device in list_devices(None, None)] == [
        "0",
        "2",
    ]
    assert len(list_devices(3, None)) == 3
    assert list_devices(None, "cpu") == [{}]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(devices, "usable_cpus", lambda: 8)
    assert list_devices(None, None) == [{}]
    assert list_devices(2, None) == [{"OMP_NUM_THREADS": "4"}] * 2


def test_a_real_run_and_its_twin(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Through the command line of `fit`, whose folder and scores it must understand."""
    monkeypatch.setattr(reproduce, "PUBLISHED", PUBLISHED[:1])
    main(["reproduce", "--seeds", "1", "--splits", "photo", *words, "--trainer.max_epochs", "1"])
    folder = Path("reproduced/lightning_logs/d8-photo/version_0")
    scores = json.loads((folder / "scores.json").read_text())
    assert scores["split"] == "photo"
    assert yaml.safe_load((folder / "config.yaml").read_text())["model"]["hidden"] == [8]
    assert f"test {scores['test']['accuracy']:.4f}" in capsys.readouterr().out
    assert width("reproduced/1.png") == 1200
    assert not Path("reproduced/2.png").exists()
