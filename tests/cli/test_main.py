import errno
import inspect
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path

import pytest

from bloodcell.cli.arguments import TRAINER, VERBS, Function
from bloodcell.cli.configs import SHIPPED, find_config
from bloodcell.cli.main import main
from bloodcell.cli.parsing import parse, verb_page
from bloodcell.cli.places import check_places
from bloodcell.cli.schema import REQUIRED, read_signature
from bloodcell.cli.settings import check_words, read_value, settings
from bloodcell.data.datamodule import BloodCells
from bloodcell.datasets.named import Prepared, named_datasets
from bloodcell.errors import InputError, listed
from bloodcell.files import cache_folder, look_near
from bloodcell.model.find import find_checkpoint
from bloodcell.train.task import Classifier

Refused = Callable[..., str]


def run(*words: str, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bloodcell", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload, no-any-return]


@pytest.mark.parametrize("verb", [[], *([verb] for verb in VERBS)])
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
    page = verb_page("fit")
    for name, kind in (("data", BloodCells), ("model", Classifier)):
        path = Path(sys.modules[kind.__module__].__file__ or "")
        for argument, setting in read_signature(path, kind.__name__).settings.items():
            key = f"{name}.{argument}"
            assert setting.text, f"{key} has no text"
            linked = key in ("data.seed", "model.seed", "model.class_names", "model.image_size")
            assert (f"--{key} " in page) != linked
    for key in settings("run"):
        assert f"--{key} " in page


def test_help_shows_arguments_not_attributes_of_the_same_name(tmp_path: Path) -> None:
    code = '''
class Cup:
    """A cup.

    Args:
        size: of the cup.

    Attributes:
        size: what is left in it.
    """

    def __init__(self, size: int = 1) -> None: ...
'''
    (tmp_path / "cup.py").write_text(code)
    assert read_signature(tmp_path / "cup.py", "Cup").settings["size"].text == "of the cup"


@pytest.mark.parametrize("verb", VERBS)
def test_help_lists_every_option(verb: str) -> None:
    page, declared = " ".join(verb_page(verb).split()), VERBS[verb]
    if isinstance(declared, Function):
        for name, setting in declared.read(verb).settings.items():
            if name == "words":  # all other words of the command line
                continue
            assert setting.text
            required = setting.default is REQUIRED
            assert (name.upper() if required else f"--{name} ") in page
            assert required or setting.default is False or setting.help() in page
    else:
        assert all(name in page for names, _ in declared.options for name in names if "-" in name)
        assert all(how["help"] in page for _, how in declared.options)
    if verb == "fit":
        assert all(f"--trainer.{name} " in page for name in TRAINER)


@pytest.mark.parametrize("group", ["run", "data", "model", "benchmark"])
def test_defaults_in_the_help_are_values(group: str) -> None:
    for key, setting in settings(group).items():
        names = re.findall(r"[a-z_]\w*\.\w+", str(setting.default))
        assert not names, f"{key} shows a name of the program instead of its default"
    assert "learning rate of Adam; `optimizer` has its own (default: 1e-05)" in " ".join(
        verb_page("fit").split()
    )


@pytest.mark.parametrize("verb", [v for v in VERBS if isinstance(VERBS[v], Function)])
def test_options_have_the_defaults_of_the_function(verb: str) -> None:
    declared = VERBS[verb]
    assert isinstance(declared, Function)
    function = getattr(import_module(declared.module), verb)
    for name, argument in inspect.signature(function).parameters.items():
        default = REQUIRED if argument.default is argument.empty else argument.default
        assert declared.read(verb).settings[name].default == default


def test_help_anywhere(capsys: pytest.CaptureFixture[str]) -> None:
    pages = []
    for words in (["fit", "-h"], ["help", "fit"], ["fit", "--data.split", "foto", "--help"]):
        main(words)
        pages.append(capsys.readouterr().out)
    assert pages[0].startswith("usage: bloodcell fit")
    assert pages == [pages[0]] * 3


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
    assert "expected a verb before '--config'. Verbs: fit," in refused("--config", "d8.yaml", "fit")


def test_a_wrong_config(refused: Refused) -> None:
    said = refused("fit", "--config", "d8_d9.yaml")
    missing = "--config d8_d9.yaml: no such file. Did you mean d8_d8.yaml?"
    assert f"{missing} Shipped configs: any_lab.yaml, " in said
    assert "--config needs a value" in refused("fit", "--config")


def test_a_wrong_key(refused: Refused) -> None:
    assert "Did you mean 'model.dropout'?" in refused("fit", "--model.dropuot", "0.1")
    Path("bad.yaml").write_text("model:\n  hiden: [8]\n")
    said = refused("fit", "--config", "bad.yaml")
    assert "bad.yaml: model.hiden is not a setting of fit. Did you mean 'model.hidden'?" in said


def test_a_wrong_value(refused: Refused) -> None:
    said = refused("fit", "--data.split", "random")
    rule = "it must be one of photo, seed, folds, train_folds, labs."
    assert f"data.split=random cannot be used: {rule}" in said
    assert "Did you mean" not in said
    assert "model.lr=fast cannot be used: it must be a number." in refused(
        "fit", "--model.lr", "fast"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "fit --data.split foto",
            "one of photo, seed, folds, train_folds, labs. Did you mean 'photo'?",
        ),
        ("fit --model.lr fast", "model.lr=fast cannot be used: it must be a number. See"),
        (
            "fit --data.batch_size automatic",
            "it must be a whole number or auto. Did you mean 'auto",
        ),
        ("fit --data.fold 1.5", "data.fold=1.5 cannot be used: it must be a whole number."),
        ("fit --model.freeze maybe", "model.freeze=maybe cannot be used: it must be true or false"),
        ("fit --model.bn_momentum=x", "bn_momentum=x cannot be used: it must be a number or null"),
        ("fit --model.hidden 8", "it must be a list of whole numbers, e.g. [8]."),
        ("fit --rollbacks two", "rollbacks=two cannot be used: it must be a whole number."),
        ("fit --trainer.max_epochs ten", "max_epochs=ten cannot be used: it must be a whole"),
        ("fit --trainer.max_epochs .inf", "trainer.max_epochs=.inf cannot be used: it must be a"),
        ("fit --config number.yaml", "number.yaml: ckpt_path=3 cannot be used: it must be a run"),
        ("fit --config list.yaml", "list.yaml: data=[1] cannot be used: it must be settings, e.g."),
        ("fit --model.weights m.safetensors#ema", "it must be without #ema, because a .safeten"),
        ("fit --ckpt_path=~/hollow", "hollow: no checkpoint there (looked for /"),
        ("audit . --photos t.csv --write_photos t.csv", "a file other than the tables that are"),
        ("fit --data.xyz 1", "data.xyz is not a setting of fit."),
        ("fit --data.splt seed", "data.splt is not a setting of fit. Did you mean 'data.split'?"),
        ("fit --seconds 1", "seconds is not a setting of fit."),
        ("fit d8.yaml", "fit takes options only (got: d8.yaml). Did you mean --config d8.yaml?"),
        ("fit --config bad.yaml", "bad.yaml: model.lr=fast cannot be used: it must be a number"),
        ("fit --config none.yaml", "none.yaml: data.photo is not a setting of fit. Did you mean"),
        ("benchmark --seconds soon", "seconds=soon cannot be used: it must be a number."),
        ("benchmark --ckpt_path x", "ckpt_path is not a setting of benchmark."),
        ("validate --model.poool avg", "Did you mean 'model.pool'? See `bloodcell validate --help"),
        ("test --data.crop nucleus", "data.crop=nucleus cannot be used: it must be one of none, c"),
        ("verify run --data.crop nucleus", "data.crop=nucleus cannot be used"),
        ("predict a.png --batch_size 0", "--batch_size=0 cannot be used: it must be a whole numb"),
        ("predict a.png --field wide", "--field=wide cannot be used: it must be a number or"),
        ("predict a.png --field 99 --cells", "--field=99 cannot be used: it must be auto, or a n"),
        ("predict a.png --out", "--out needs a value"),
        ("reproduce --seeds 0", "--seeds=0 cannot be used: it must be a whole number, 1 or more"),
        ("fit --data.root nowhere", "data.root='nowhere' does not exist (looked for "),
        ("fit --config away.yaml", "data.photos='nowhere.csv' cannot be read (No such file or"),
        ("test --data.labels no.csv", "data.labels='no.csv' cannot be read (No such file or dir"),
        ("fit --model.weights no.pth", "model.weights='no.pth' is neither a file nor 'imagenet'"),
        ("fit --ckpt_path hollow", "--ckpt_path hollow: no checkpoint there (looked for hollow/"),
        ("test --ckpt_path hollow", "--ckpt_path hollow: no checkpoint there (looked for hollow/"),
        ("test --ckpt_path no/run", "--ckpt_path no/run: no checkpoint there (looked for no/run/"),
        ("predict bad.yaml --model hollow", "--model hollow: no checkpoint there (looked for"),
        ("explain nothing.png", "nothing.png: no such file or folder."),
        ("export nothing.png", "nothing.png: no such file or folder."),
        ("audit nowhere", "FOLDER='nowhere' does not exist (looked for "),
    ],
)
def test_refusals_before_torch_is_imported(words: str, message: str) -> None:
    Path("bad.yaml").write_text("model: {lr: fast}\n")
    Path("none.yaml").write_text("data: {photo: null}\n")
    Path("number.yaml").write_text("ckpt_path: 3\n")
    Path("list.yaml").write_text("data: [1]\n")
    Path("m.safetensors").touch()
    Path("away.yaml").write_text("data: {root: ., photos: nowhere.csv}\n")
    code = (
        "import sys\nfrom bloodcell.cli.main import main\n"
        "try: main(sys.argv[1:])\n"
        "finally: assert not {'torch', 'lightning', 'jsonargparse'} & sys.modules.keys()"
    )
    command = [sys.executable, "-c", code, *words.split()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("bloodcell: ")
    assert message in done.stderr


def test_paths_that_are_not_used_need_not_exist() -> None:
    config = {"data": {"photos": "no.csv", "root": "nowhere"}, "model": {"weights": "no.pth"}}
    words = ["--data.photos", "null", "--data.root", "drawn"]
    check_places("fit", [config], words, None, resume=True)
    check_places("fit", [config], [*words, "--model.weights=none"], "last", resume=False)
    with pytest.raises(InputError, match=r"data\.photos='no\.csv' cannot be read"):
        check_places("fit", [config], words[2:], None, resume=True)
    with pytest.raises(InputError, match=r"model\.weights='no\.pth' is neither a file"):
        check_places("fit", [config], words, None, resume=False)


@pytest.mark.parametrize(
    "words",
    [
        "--model.lr 1e-3 --data.batch_size=auto --model.hidden [8,16] --model.hidden+ 4",
        "--model.bn_momentum null --model.compile false --data.on_device true --model.lr -1",
        "--trainer.callbacks+ EarlyStopping --trainer.callbacks.monitor val/loss",
        "--trainer.limit_train_batches 0.5 --trainer.devices [0,1] --trainer.logger false",
        "--trainer.precision 32-true --trainer.max_epochs=-1 --model.lr.deeper 3",
    ],
)
def test_what_may_be_right_is_left_to_lightning(words: str) -> None:
    check_words("fit", words.split())


def test_a_name_that_looks_like_a_date() -> None:
    assert read_value("2024-31-12") == "2024-31-12"


def test_a_cache_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert cache_folder() == Path.home() / ".cache" / "bloodcell"


def test_a_drive_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "is_dir", lambda _: False)
    assert look_near(Path("/away/run")) == (Path("/"), [])
    with pytest.raises(InputError, match=r"--model /away/run: no checkpoint there .* nothing\)"):
        find_checkpoint("--model", Path("/away/run"), "best")


def test_the_last_of_an_option_given_twice_wins() -> None:
    given, _ = parse("predict", ["a", "--out=x.csv", "--tta", "b", "--out", "y.csv"])
    assert given.images == ["a", "b"]
    assert given.out == "y.csv"


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
    assert "--config empty.yaml contains no settings" in refused("fit", "--config", "empty.yaml")
    Path("bad.yaml").write_text("model: [")
    assert "--config bad.yaml is not valid YAML in UTF-8" in refused("fit", "--config", "bad.yaml")
    Path("bad.yaml").write_bytes(b"\xff\xfe\x00")
    assert "--config bad.yaml is not valid YAML in UTF-8" in refused("fit", "--config", "bad.yaml")


def test_flags_without_a_value_or_misspelt(refused: Refused) -> None:
    assert "--ckpt_path needs a value" in refused("test", "--ckpt_path")
    assert "Did you mean 'config'?" in refused("fit", "--confg", "d8.yaml")
    assert "Did you mean 'trainer.max_epochs'?" in refused("fit", "--trainer.max_epoch", "3")
    said = refused("fit", "--model.hidden", "8")
    assert "model.hidden=8 cannot be used: it must be a list of whole numbers, e.g. [8]." in said


def test_all_choices_are_listed(refused: Refused) -> None:
    said = refused("fit", "--model.compile", "fast")
    assert "must be one of auto, false, default, reduce-overhead, max-autotune. See" in said
    assert said.endswith("See `bloodcell fit --help`.\n")
    said = refused("benchmark", "--data.on_device", "maybe")
    assert "data.on_device=maybe cannot be used: it must be one of auto, true, false." in said
    assert said.endswith("See `bloodcell benchmark --help`.\n")
    assert "must be one of photo, seed, folds" in refused("fit", "--data.split", "none")


def test_help_all_lists_lightnings_options(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("fit", "test"):
        with pytest.raises(SystemExit) as stopped:
            main([verb, "--help-all"])
        assert stopped.value.code == 0
        assert "--trainer.gradient_clip_val" in capsys.readouterr().out


def test_download_prepares_the_sets_it_is_given(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], refused: Refused
) -> None:
    assert "download now: no such data set. Choose from chula" in refused("download", "now")
    for name, one in list(named_datasets().items()):
        prepare = partial(Prepared, Path(f"{name}_files"))
        monkeypatch.setitem(named_datasets(), name, replace(one, prepare=prepare))
    main(["download"])
    main(["download", "chula", "pbc"])
    assert capsys.readouterr().out == "kaggle: kaggle_files\nchula: chula_files\npbc: pbc_files\n"


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
    def interrupted(*_: str) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr("bloodcell.datasets.kaggle.download_kaggle", interrupted)
    with pytest.raises(SystemExit) as stopped:
        main(["download"])
    assert stopped.value.code == 130
    assert capsys.readouterr().err == "\nbloodcell: stopped.\n"


def test_whole_numbers_of_batches_stay_whole(words: list[str]) -> None:
    """As a user has it: in a process that imports what the command line imports, in its order."""
    done = run("fit", *words, "--trainer.limit_test_batches", "1", "--print_config")
    assert "\n  limit_test_batches: 1\n" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (None, "no space to write a file (No space left on device). Free some space, or give"),
        ("out.csv", "no space to write out.csv (No space left on device). Free some space, or"),
    ],
)
def test_a_full_disk_is_told(
    name: str | None, message: str, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system does not always say which file it could not write."""

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", name)

    monkeypatch.setattr("bloodcell.evaluate.compare.compare", full)
    assert f"bloodcell: {message}" in refused("compare", "somewhere")


def test_what_a_constructor_says_is_kept(
    words: list[str], refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setattr("urllib.request.getproxies", dict)
    message = refused("fit", *words, "--model.weights", "imagenet")
    assert "model.weights=imagenet: the weights of 'test_efficientnet' could not be" in message
    assert "Give model.weights a file" in message


def test_a_closed_pipe_is_no_error() -> None:
    words = f"{sys.executable} -m bloodcell fit --help | head -1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", words], capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stderr
    assert done.stdout.startswith("usage")


@pytest.mark.parametrize(("reader", "status"), [("true", 1), ("head -1", 0)])
def test_the_status_after_a_closed_pipe(reader: str, status: int) -> None:
    """A short text is written at the end, when nobody reads any more."""
    code = "from bloodcell.cli.main import main; import time; time.sleep(0.5); main(['--version'])"
    words = f'{sys.executable} -c "{code}" | {reader}; echo ${{PIPESTATUS[0]}}'
    done = subprocess.run(["bash", "-c", words], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1] == str(status)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only on Linux")
def test_a_full_disk_at_the_end() -> None:
    words = f"{sys.executable} -m bloodcell --version > /dev/full"
    done = subprocess.run(["bash", "-c", words], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no space to write a file" in done.stderr
    assert len(done.stderr.splitlines()) == 1
