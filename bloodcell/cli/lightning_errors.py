"""Silences warnings of Lightning that do not apply here, and turns its errors into InputErrors."""

import logging
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from jsonargparse import ArgumentError
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.exceptions import SIGTERMException

from bloodcell.errors import TERMINATED, InputError, of_disk, reason
from bloodcell.memory import keep_memory

_QUIET = (  # warnings of Lightning that do not apply here
    ".*does not have many workers.*",  # batches are picked from memory: a worker would only copy
    ".*is smaller than the logging interval.*",  # everything is logged by epoch
    ".*Checkpoint directory .* exists and is not empty.*",  # a resumed run continues in its folder
    ".*callbacks used to create the checkpoint need to be provided.*",  # a test needs none
    ".*could not find the monitored key.*",  # an epoch without validation has none
    ".*sync_dist=True.*",  # metrics synchronise themselves; the speed is counted for all devices
    ".*Grad strides do not match bucket view strides.*",  # for 1x1 kernels; costs nothing here
    ".*all_gather is deprecated.*",  # Lightning's own call
    ".*is using 'interval': 'epoch'.*",  # as documented: each scheduler steps once an epoch
    ".*LeafSpec.*",
)
_ELSEWHERE = (
    "write elsewhere: set --trainer.default_root_dir for new runs, and the variable XDG_CACHE_HOME "
    "for downloads, drawn smears and decoded images. With space freed, --ckpt_path last resumes a "
    "run"
)


@contextmanager
def lightning_errors(verb: str) -> Iterator[None]:
    """Silences warnings that do not apply here, and converts errors of Lightning and the disk.

    Args:
        verb: the verb whose help page the messages refer to.

    Raises:
        InputError: if a setting cannot be used, or the disk is full.
    """
    for message in _QUIET:
        warnings.filterwarnings("ignore", message)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    # the compiler's remark that there is no CUDA
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    keep_memory()
    try:
        yield
    except (MisconfigurationException, ArgumentError) as error:
        raise InputError(f"{_cause(error)}. See `bloodcell {verb} --help`.") from error
    except SIGTERMException:
        sys.exit(TERMINATED)
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):  # Lightning exits on Ctrl-C
            raise KeyboardInterrupt from stop
        raise
    except OSError as error:
        told = of_disk(error, _ELSEWHERE)
        if told is None:
            raise
        raise InputError(told) from error


@contextmanager
def constructor_errors(verb: str) -> Iterator[None]:
    """Names the class of a setting whose constructor fails, e.g. a logger without its package.

    Args:
        verb: whose help page the messages refer to.

    Raises:
        InputError: if a constructor fails that jsonargparse has called.
    """
    try:
        yield
    except ValueError as error:
        chain: list[BaseException] = [error]
        while cause := chain[-1].__cause__:
            chain.append(cause)
        ours = next((one for one in chain if isinstance(one, InputError)), None)
        if len(chain) == 1 or ours is error:
            raise
        if ours:
            raise ours from error
        cause = chain[-1]
        frames = [frame for frame, _ in traceback.walk_tb(cause.__traceback__)]
        made = [one.f_locals["self"] for one in frames if one.f_code.co_name == "__init__"]
        raise InputError(
            f"{type(made[0]).__name__ if made else 'a class in the settings'} cannot be used: "
            f"{' '.join(str(cause).split()).rstrip('.')}. See `bloodcell {verb} --help`."
        ) from error


def _cause(error: Exception) -> str:
    """Shortens an error message, except jsonargparse's, which names the setting at the end."""
    text = " ".join(str(error).split()).rstrip(". ")
    return text if isinstance(error, ArgumentError) else reason(error)
