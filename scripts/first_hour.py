"""Checks on a GPU, in under eight minutes, what only a GPU can show, and prints a table.

    python scripts/first_hour.py
    python scripts/first_hour.py --weights imagenet --data.root blood-cells.zip
    python scripts/first_hour.py --device cpu --quick      # the dry run, without compilation

Each row is a `bloodcell fit` in its own process, on drawn smears unless --data.root is given; other
options of `fit` apply to all rows. A row shows the result, the images per second of the last epoch,
the peak memory that PyTorch reserved, and the error. The exit status is 1 if a row is wrong.
"""

import math
import multiprocessing
import os
import re
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from arguments import make_parser, positive

import bloodcell.cli.training  # noqa: F401  once, before the processes of a dry run are forked
from bloodcell.cli.main import STOPPED
from bloodcell.cli.main import main as bloodcell_command
from bloodcell.datasets.drawn.smears import write_smears
from bloodcell.errors import BAD_INPUT
from bloodcell.evaluate.history import Epoch, read_history
from bloodcell.train.task import Classifier

NEAR = 0.1  # relative difference of the first epoch's training loss in another precision
ROOM_GIB = 1.0  # memory for the rows in which it must run out
TOO_MANY = 512  # images in a batch that exceeds this memory
TOO_LONG = "took too long"
NOT_COMPILED = ("not compiled (", "skipping cudagraphs")  # in a log


class Row(NamedTuple):
    """One line of the table.

    Attributes:
        name: what is checked.
        words: options of `fit`.
        near: row whose training loss must be similar.
        equal: row whose weights must be identical.
        stop: step in which the run gets Ctrl-C, to be resumed afterwards; None for no stop.
        status: expected exit status of `fit`.
        output: regular expression that must match the output.
        little: whether memory is limited to `ROOM_GIB`.
        optional: whether it takes the time that is left, and need not finish.
    """

    name: str
    words: list[str]
    near: str = ""
    equal: str = ""
    stop: int | None = None
    status: int = 0
    output: str = ""
    little: bool = False
    optional: bool = False


class Result(NamedTuple):
    """The result of a row; `wrong` is the error, empty if there is none, None if it was not run."""

    wrong: str | None
    seconds: float = 0.0
    speed: float = 0.0
    peak_gib: float = 0.0
    folder: Path = Path()


def rows(cuda: bool, quick: bool) -> list[Row]:
    eager, kept = ["--model.compile", "false"], ["--data.on_device", "true"]
    # without the test, and without dropout, which compilation draws differently
    short = ["--trainer.enable_checkpointing", "false", "--model.dropout", "0"]
    first = "32-true"
    found = [Row(first, [*short, *eager, *kept, "--trainer.precision", first])]
    for precision in ("16-mixed", "bf16-mixed"):
        words = [*short, *eager, *kept, "--trainer.precision", precision]
        found.append(Row(precision, words, near=first))
    modes = ("default", "reduce-overhead", "max-autotune")
    compiled = [
        Row(f"compile {m}", [*short, *kept, "--model.compile", m], near=first) for m in modes
    ]
    same = ["--trainer.deterministic", "true", "--data.augment", "full"]
    again = "deterministic"
    found += [
        *compiled[:2],
        Row(again, [*same, *kept]),
        Row("the same again", [*same, *kept], equal=again),
        Row("on_device false", [*same, "--data.on_device", "false"], equal=again),
        Row("stopped, resumed", [*same, *kept], equal=again, stop=5 if quick else 25),
    ]
    full = [*short, "--data.on_device", "false", "--data.batch_size"]
    found.append(Row("batch_size auto", [*full, "auto"], output=r"size=auto: \d+", little=True))
    if cuda:
        advice = r"too little memory .*--data.batch_size \d+ fits"
        words = [*full, str(TOO_MANY)]
        found.append(Row("too large a batch", words, status=BAD_INPUT, output=advice, little=True))
    return [*found, compiled[2]._replace(optional=True)]


def choose(found: list[Row], only: str) -> list[Row]:
    """Returns the rows whose names contain `only`, and those that they are compared with."""
    chosen = [row for row in found if only in row.name]
    names = {name for row in chosen for name in (row.name, row.near, row.equal)}
    return [row for row in found if row.name in names]


def fit(words: list[str], log: Path, stop: int | None, little: bool) -> None:
    """Trains in this process, with all output in the log."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    if little and torch.cuda.is_available():
        whole = torch.cuda.get_device_properties(0).total_memory / 2**30
        torch.cuda.set_per_process_memory_fraction(min(1.0, ROOM_GIB / whole))
    step: Any = Classifier.training_step

    def training_step(self: Classifier, batch: Any, batch_idx: int) -> Any:
        if self.global_step == stop:
            signal.raise_signal(signal.SIGINT)
        return step(self, batch, batch_idx)

    setattr(Classifier, "training_step", training_step)  # noqa: B010  which mypy allows
    try:
        bloodcell_command(["fit", *words])
    finally:
        peak = torch.cuda.max_memory_reserved() if torch.cuda.is_available() else 0
        print(f"\npeak: {peak / 2**30:.2f} GiB", flush=True)


class Hour:
    """Runs the rows.

    Args:
        words: options of `fit` for all of them.
        folder: folder of the runs.
        log: file for the output of all rows.
        cuda: whether to use a GPU.
        limit: seconds for each row.
        minutes: limit for all rows.
    """

    def __init__(
        self, words: list[str], folder: Path, log: Path, cuda: bool, limit: float, minutes: float
    ) -> None:
        self._words, self._folder, self._log, self._limit = words, folder, log, limit
        self._end = self._end_of_row = time.monotonic() + 60 * minutes
        # a forked process cannot use a GPU that its parent has used; forking is faster
        self._start: Any = multiprocessing.get_context("spawn" if cuda else "fork")
        self.results: dict[str, Result] = {}

    def run(self, row: Row) -> Result:
        start, before = time.monotonic(), self._log.stat().st_size
        self._end_of_row = self._end if row.optional else min(self._end, start + self._limit)
        if self._end - start < self._limit / 4:
            return Result(None)
        folder = self._folder / str(len(self.results))
        words = [*self._words, *row.words, "--trainer.default_root_dir", str(folder)]
        try:
            if row.stop is None:
                wrong = self._fit(row, words, row.status)
            else:
                wrong = self._fit(row, words, STOPPED, row.stop)
                wrong = wrong or self._fit(row, [*words, "--resume", "auto"], row.status)
            text = self._log.read_bytes()[before:].decode(errors="replace")
            run = next(folder.glob("lightning_logs/*/version_0"), folder)
            history = read_history(run / "metrics.csv")
            wrong = wrong or self._judge(row, text, history, run)
        except Exception as error:  # any error of a row is shown in its line
            return Result(f"{type(error).__name__}: {error}", time.monotonic() - start)
        if row.optional and wrong == TOO_LONG:
            return Result(None, time.monotonic() - start)
        speed = history[-1].images_per_second if history else 0.0
        peak = max((float(one) for one in re.findall(r"^peak: (\S+)", text, re.M)), default=0.0)
        return Result(wrong, time.monotonic() - start, speed, peak, run)

    def _fit(self, row: Row, words: list[str], status: int, stop: int | None = None) -> str:
        """Returns the error; empty if the process ends in time with this status."""
        with self._log.open("a") as file:
            file.write(f"\n===== {row.name}: bloodcell fit {' '.join(words)}\n")
        begins = self._log.stat().st_size
        process = self._start.Process(target=fit, args=(words, self._log, stop, row.little))
        process.start()
        process.join(max(1.0, self._end_of_row - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()
            return TOO_LONG
        if process.exitcode == status:
            return ""
        text = self._log.read_bytes()[begins:].decode(errors="replace")
        lines = [one for one in text.splitlines() if one.strip() and not one.startswith("peak: ")]
        return f"exit status {process.exitcode}: {lines[-1] if lines else 'no output'}"

    def _judge(self, row: Row, text: str, history: list[Epoch], run: Path) -> str:
        """Returns the error of a row whose processes have ended as expected."""
        for words in NOT_COMPILED:
            if words in text:
                return text[text.index(words) :].splitlines()[0]
        if row.output and not re.search(row.output, text):
            return f"the output lacks {row.output}"
        if row.status:
            return ""
        losses = [one.train_loss for one in history]
        learns = "full" not in row.words  # with data.augment=full the loss falls more slowly
        if not losses or not all(map(math.isfinite, losses)) or (learns and losses[-1] > losses[0]):
            return f"the training losses are {losses}"
        for name in (row.near, row.equal):
            if name and self.results[name].wrong != "":
                return f"cannot be compared: {name} has no result"
        if row.near:
            other = read_history(self.results[row.near].folder / "metrics.csv")[0].train_loss
            if abs(losses[0] - other) > NEAR * other:
                return f"training loss {losses[0]:.4f}, not {other:.4f}, in the first epoch"
        if row.equal:
            far = distance(run, self.results[row.equal].folder)
            return f"weights differ by {far:.2g}" if far else ""
        return ""


def distance(run: Path, other: Path) -> float:
    """Returns the largest difference between the last weights of two runs."""
    files = (one / "checkpoints" / "last.ckpt" for one in (run, other))
    first, second = (torch.load(f, "cpu", weights_only=True)["state_dict"] for f in files)
    return max(float((first[key] - second[key]).abs().max()) for key in first)


def main() -> None:
    parser = make_parser(__doc__)
    parser.allow_abbrev = False  # other words are options of `fit`
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="default: cuda")
    parser.add_argument("--quick", action="store_true", help="a few batches of 32 pixels")
    parser.add_argument("--weights", default="none", help="model.weights (default: none)")
    parser.add_argument("--out", type=Path, default=Path("first_hour.log"), help="log of all rows")
    parser.add_argument("--only", default="", help="only rows whose names contain this")
    parser.add_argument("--limit", type=positive, default=90, help="seconds per row")
    parser.add_argument("--minutes", type=positive, default=8, help="for all rows")
    given, more = parser.parse_known_args()
    cuda, quick = given.device == "cuda", given.quick
    if not cuda:
        torch.set_num_threads(1)  # a forked process has no other threads
        if quick:
            setattr(torch, "compile", lambda forward, **_: forward)  # noqa: B010
            torch.compiler.reset()  # imports what each process would import again
    side, batch, epochs = ("32", "8", "2") if quick else ("128", "60", "3")
    words = [
        *("--data.image_size", side, "--data.batch_size", batch, "--trainer.max_epochs", epochs),
        *("--model.pool", "avg", "--model.hidden", "[]", "--model.lr", "1e-3"),
        *("--model.weights", given.weights, "--trainer.devices", "1"),
        *("--trainer.accelerator", "gpu" if cuda else "cpu"),
        *("--trainer.enable_progress_bar", "false"),
        *(["--model.backbone", "test_efficientnet"] if quick else []),
    ]
    given.out.write_text("")
    with tempfile.TemporaryDirectory() as folder:
        if "--data.root" not in more:
            smears = Path(folder, "smears")
            photos, workers = ((6, 2, 2), 1) if quick else ((80, 20, 4), None)
            write_smears(smears, *photos, workers=workers)
            words += ["--data.root", f"{smears}/images", "--data.photos", f"{smears}/photos.csv"]
        hour = Hour(
            [*words, *more], Path(folder), given.out.absolute(), cuda, given.limit, given.minutes
        )
        print(f"{'row':23} {'':9} {'images/s':>9} {'GiB':>6} {'s':>5}")
        for row in choose(rows(cuda, quick), given.only):
            result = hour.results[row.name] = hour.run(row)
            right = "not run" if result.wrong is None else "WRONG" if result.wrong else "right"
            numbers = f"{result.speed:9,.0f} {result.peak_gib:6.2f} {result.seconds:5.0f}"
            print(f"{row.name:23} {right:9} {numbers}  {result.wrong or ''}".rstrip(), flush=True)
    wrong = [name for name, result in hour.results.items() if result.wrong]
    left = [name for name, result in hour.results.items() if result.wrong is None]
    for what, names in (("wrong", wrong), ("not run, or too slow", left)):
        print(f"{what}: {', '.join(names) or 'none'}")
    print(f"log: {given.out}")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
