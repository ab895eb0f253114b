"""Lists the verbs, and the options of those that LightningCLI runs.

The options of the other verbs are the arguments of their functions.
"""

from importlib import import_module
from typing import Any, NamedTuple

from bloodcell.cli.schema import PACKAGE, Signature, read_signature

MAX_EPOCHS = 30  # default of --trainer.max_epochs
Option = tuple[tuple[str, ...], dict[str, Any]]  # names and keywords of `add_argument`


class Function(NamedTuple):
    """A verb that is a function of the same name.

    Attributes:
        module: the module that defines it.
    """

    module: str

    def read(self, verb: str) -> Signature:
        """Reads the function's summary and arguments without importing it."""
        path = PACKAGE.parent / f"{self.module.replace('.', '/')}.py"
        return read_signature(path, verb)

    def call(self, verb: str, arguments: dict[str, Any]) -> Any:
        """Imports and calls the function."""
        return getattr(import_module(self.module), verb)(**arguments)


class Training(NamedTuple):
    """A verb that LightningCLI runs.

    Attributes:
        summary: what it does.
        options: its options besides the settings.
        remarks: more lines of its help page.
        groups: the groups of its settings (`bloodcell.cli.settings`).
    """

    summary: str
    options: tuple[Option, ...]
    remarks: str = ""
    groups: tuple[str, ...] = ("run", "data", "trainer")


def _option(name: str, metavar: str, text: str, **how: Any) -> Option:
    return tuple(name.split("/")), {"metavar": metavar, "help": text} | how


_COMMON = (
    _option("-c/--config", "NAME", "a YAML file, or the name of a shipped one, e.g. d8.yaml; if "
            "several are given, later ones override earlier ones", action="append", default=[]),
    _option("--print_config", "HOW", "print all settings and stop", nargs="?", const=""),
    (("--help-all",), {"action": "store_true", "help": "list all options, including Lightning's"}),
)  # fmt: skip
_CHECKPOINT = _option("--ckpt_path", "RUN", "a run folder (its best checkpoint) or a .ckpt file")
_FIT = (
    _option("--ckpt_path", "RUN", "continue a run: a run folder, a .ckpt file, or `last` for the "
            "newest run of this name"),
    _option("--resume", "auto", "continue the newest run of this name, or start one if there is "
            "none; a finished run is changed only by a larger trainer.max_epochs or max_steps"),
)  # fmt: skip
_SCORED = "The settings of the model and of the data are read from the checkpoint."
VERBS: dict[str, Function | Training] = {
    "fit": Training(
        "trains a model, then tests its best checkpoint",
        (*_FIT, *_COMMON),
        groups=("run", "data", "model", "trainer"),
    ),
    "validate": Training(
        "scores a run folder or a checkpoint on the validation part",
        (_CHECKPOINT, *_COMMON),
        _SCORED,
    ),
    "test": Training(
        "scores a run folder or a checkpoint on the test part",
        (_CHECKPOINT, *_COMMON),
        _SCORED,
    ),
    "verify": Training(
        "tests a finished run again and compares the results with its files",
        (_option("run", "RUN", "the folder of a finished run"), *_COMMON),
        f"{_SCORED}\nThe exit status is 1 if the results differ from those in the folder.",
    ),
    "compare": Function("bloodcell.evaluate.compare"),
    "reproduce": Function("bloodcell.published.reproduce"),
    "labs": Function("bloodcell.cli.labs"),
    "predict": Function("bloodcell.infer.predict"),
    "explain": Function("bloodcell.infer.explain"),
    "export": Function("bloodcell.infer.export"),
    "serve": Function("bloodcell.serve.serve"),
    "audit": Function("bloodcell.audit.audit"),
    "benchmark": Training(
        "measures images per second of each stage of training",
        _COMMON,
        "First, up to 2,000 images are decoded. Compiling for a CPU takes a minute or two for\n"
        "each batch size, as several passes are compiled; --model.compile false disables it. The\n"
        "weights are random unless --model.weights is given.",
        ("run", "benchmark", "data", "model", "trainer"),
    ),
    "cache": Function("bloodcell.cli.cache"),
    "download": Function("bloodcell.datasets.download"),
}
TRAINER = {  # options of Lightning's Trainer that the help pages show
    "max_epochs": f"number of epochs (default: {MAX_EPOCHS})",
    "accelerator": "auto, cpu, gpu or mps (default: auto)",
    "devices": "number of devices (default: auto)",
    "strategy": "how several devices work together, e.g. ddp (default: auto)",
    "precision": "default: bf16-mixed if the GPU or CPU supports it in hardware, 16-mixed on older "
    "GPUs, else 32-true",
    "fast_dev_run": "true: run one batch of each part that is used (fit does not test), and write "
    "nothing",
    "default_root_dir": "the folder that contains lightning_logs (default: the current one)",
}
