"""Advice for errors of PyTorch and Lightning, and a file for the traceback of any other error."""

import traceback
from pathlib import Path

import torch
from lightning.pytorch import Trainer

from bloodcell.data.datamodule import BloodCells
from bloodcell.errors import of_disk, reason
from bloodcell.files import write_whole
from bloodcell.memory import is_full
from bloodcell.text import near
from bloodcell.train.batch_size import is_gpu, largest
from bloodcell.train.runs import run_folder_of
from bloodcell.train.task import Classifier

TRACEBACK = "traceback.txt"  # in the run folder
# parts of messages for which PyTorch has no exception classes
_NO_RESPONSE = ("by peer", "Broken pipe", "Timed out", "timed out", "TCPStore", "heartbeat")
_KNOWN = {
    "val_check_interval": "Give a share of the epoch, such as 0.5, or fewer batches.",
    "conditioned on metric": "Its monitor must be the name of a logged metric, e.g. val/loss.",
    "more than 1 value per channel": "BatchNorm cannot train on a batch of one image with a 1x1 "
    "feature map: use a larger data.batch_size, or a larger data.image_size.",
    "does not have a deterministic implementation": "Use --trainer.deterministic warn, which only "
    "warns, or another backbone.",
}


def explain(
    error: BaseException, trainer: Trainer, model: Classifier, data: BloodCells
) -> str | None:
    """Returns advice about a known error of PyTorch or Lightning; None for any other error."""
    text = str(error)
    if is_full(error):
        _free_step(error, model)
        return _explain_full(trainer, model, data)
    for words, advice in _KNOWN.items():
        if words in text:
            return f"{reason(error)}. {advice}"
    if trainer.world_size > 1 and _has(text, _NO_RESPONSE):
        return (
            f"another of the {trainer.world_size} processes has ended or does not respond "
            f"({reason(error)}). Its output, above or in its log, may show why, unless the "
            "machine ran out of memory. If there is a checkpoint, resume with --ckpt_path last."
        )
    return None


def _free_step(error: BaseException, model: Classifier) -> None:
    """Frees the memory of the step that failed."""
    model.training_pass = model.forward
    torch.compiler.reset()  # frees the memory of CUDA graphs
    raised: BaseException | None = error
    while raised:  # the frames of an exception keep the tensors of the step
        raised.__traceback__ = None
        raised = raised.__cause__ or raised.__context__


def keep_traceback(error: Exception, trainer: Trainer) -> str | None:
    """Writes the traceback of an unknown error into the run folder.

    Args:
        error: the error, for example of a callback or logger of the user.
        trainer: the trainer of the run.

    Returns:
        The error and the name of the file; None if there is no run folder, or for a disk error,
        which needs no traceback.
    """
    folder = run_folder_of(trainer) if trainer.is_global_zero else None
    disk = isinstance(error, OSError) and of_disk(error, "") is not None
    if disk or folder is None or not folder.is_dir():
        return None
    path = folder / TRACEBACK
    with write_whole(path) as file:
        file.writelines(traceback.format_exception(error))
    at = traceback.extract_tb(error.__traceback__)[-1]
    return (
        f"{type(error).__name__}: {reason(error)} ({Path(at.filename).name}, line "
        f"{at.lineno}). The traceback is in {near(path)}."
    )


def _explain_full(trainer: Trainer, model: Classifier, data: BloodCells) -> str:
    device = trainer.strategy.root_device
    problem = f"{device} has too little memory for data.batch_size={data.batch_size}. "
    if data.batch_size == 1:
        return f"{problem}Use a smaller --data.image_size."
    if not is_gpu(trainer):
        return f"{problem}Use a smaller batch, or a smaller --data.image_size."
    size = largest(trainer, model, data, data.batch_size // 2)
    return f"{problem}--data.batch_size {size} fits, and auto finds it."


def _has(text: str, words: tuple[str, ...]) -> bool:
    return any(word in text for word in words)
