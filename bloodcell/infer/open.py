"""Opens the model that `--model` names."""

from pathlib import Path

from bloodcell.errors import InputError
from bloodcell.files import at_home
from bloodcell.infer.runtime import AUTO, Runtime
from bloodcell.model.bundled import find_bundled
from bloodcell.model.find import BEST, find_checkpoint


def open_model(given: str | None, devices: str = AUTO) -> Runtime:
    """Opens a model; an exported .onnx file runs without PyTorch.

    Args:
        given: run folder, .ckpt, .safetensors or .onnx file; None uses the bundled model.
        devices: PyTorch device names, separated by commas, such as `cuda:0,cuda:1`; `auto` uses all
            GPUs, or the CPU if there is none.

    Raises:
        InputError: if the model does not exist or cannot run on these devices.
    """
    path = find_model(given)
    if path.suffix == ".onnx":
        from bloodcell.infer.onnx_runtime import OnnxModel

        if devices not in (AUTO, "cpu"):
            raise InputError(
                f"--devices {devices}: an exported model runs on the CPU. Leave it out."
            )
        return OnnxModel(path)
    from bloodcell.infer.saved import load_saved
    from bloodcell.infer.torch_runtime import TorchModel, find_devices

    return TorchModel(load_saved(path), find_devices(devices))


def find_trained(given: str | None) -> Path:
    """Returns the path of a model with access to its layers, i.e. not an exported one.

    Raises:
        InputError: if the path does not exist, or is an exported model.
    """
    path = find_model(given)
    if path.suffix == ".onnx":
        raise InputError(
            f"--model {given}: an exported model has no feature maps. Give the run folder."
        )
    return path


def find_model(given: str | None) -> Path:
    """Returns the path of the model; None stands for the bundled model.

    Raises:
        InputError: if the path does not exist, is a .pt2 file or a folder without a checkpoint.
    """
    if given is None:
        return find_bundled()
    path = at_home(given)
    if path.suffix in (".onnx", ".safetensors") and not path.is_file():
        raise InputError(f"--model {given}: no such file. Give a run folder or a model file.")
    if path.suffix == ".pt2":
        raise InputError(
            f"--model {given}: a .pt2 file is for torch.export.load. Give the run folder."
        )
    find_checkpoint("--model", path, BEST)  # before torch is imported
    return path
