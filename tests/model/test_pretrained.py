import argparse
import json
import os
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from bloodcell.errors import InputError
from bloodcell.model.network import PretrainedConfig, create_trunk
from bloodcell.model.pretrained import load_trunk, read_pretrained_config, read_trained_on
from bloodcell.train.task import Classifier

TINY = "test_efficientnet"
V1 = "mobilenetv1_100"


@pytest.fixture
def trunk() -> nn.Module:
    return create_trunk(TINY, PretrainedConfig())


def state_of(module: nn.Module) -> dict[str, torch.Tensor]:
    return {k: v for k, v in module.state_dict().items() if not k.endswith("num_batches_tracked")}


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.fixture
def timm_file(trunk: nn.Module, tmp_path: Path) -> Path:
    """What timm's train.py leaves: a trained model, its average, and settings beside them."""
    path = tmp_path / "model_best.pth.tar"
    state = trunk.state_dict() | {"classifier.weight": torch.zeros(10, 3)}
    args = argparse.Namespace(model=TINY, lr=0.1, opt="sgd", data_dir=None)
    whole = {
        "epoch": 3, "arch": TINY, "version": 2, "args": args, "metric": np.float64(71.5),
        "optimizer": {"state": {0: {"step": torch.zeros(1)}}, "param_groups": [{"lr": 0.1}]},
        "state_dict": {f"module.{key}": value for key, value in state.items()},
        "state_dict_ema": {key: value * 0 for key, value in state.items()},
    }  # fmt: skip
    torch.save(whole, path)
    return path


def test_the_file_that_timm_leaves(trunk: nn.Module, timm_file: Path) -> None:
    for entry, factor in (("", 0), ("#state_dict_ema", 0), ("#state_dict", 1)):
        fresh, weights = create_trunk(TINY, PretrainedConfig()), f"{timm_file}{entry}"
        taken = load_trunk(fresh, TINY, weights)
        assert taken == f"model_best.pth.tar{entry or '#state_dict_ema'}"
        assert_equal(state_of(fresh), {k: v * factor for k, v in state_of(trunk).items()})
        assert read_pretrained_config(TINY, weights).source == "model_best.pth.tar"
        assert read_trained_on(weights) is None
    with pytest.raises(InputError, match=r"tar#optimizer'.*has them in: state_dict, state_dict_em"):
        load_trunk(trunk, TINY, f"{timm_file}#optimizer")


def test_the_summary_says_what_was_taken(timm_file: Path) -> None:
    model = Classifier(["a", "b"], 32, backbone=TINY, weights=f"{timm_file}#state_dict")
    assert "weights=model_best.pth.tar#state_dict," in model.summary()


@pytest.mark.parametrize("suffix", [".pt", ".bin", ".ckpt", ".pth.tar"])
@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.", "model._orig_mod.module."])
def test_files_and_prefixes_of_others(
    trunk: nn.Module, tmp_path: Path, suffix: str, prefix: str
) -> None:
    state = {f"{prefix}{key}": value for key, value in trunk.state_dict().items()}
    state |= {f"{prefix}classifier.bias": torch.zeros(3), "criterion.weight": torch.zeros(3)}
    beside = {"hyper_parameters": {"lr": 0.1}, "callbacks": {}, "pytorch-lightning_version": "2"}
    torch.save({"state_dict": state, **beside}, tmp_path / f"w{suffix}")
    fresh = create_trunk(TINY, PretrainedConfig())
    assert load_trunk(fresh, TINY, str(tmp_path / f"w{suffix}")) == ""
    assert_equal(state_of(fresh), state_of(trunk))


def test_a_checkpoint_of_a_run_brings_its_recipe_and_images(run: Path) -> None:
    weights = str(run / "checkpoints" / "best.ckpt")
    checkpoint = torch.load(weights, weights_only=True)
    fresh = create_trunk(TINY, PretrainedConfig())
    load_trunk(fresh, TINY, weights)
    start = "network.trunk."
    assert_equal(state_of(fresh), {
        key.removeprefix(start): value for key, value in checkpoint["state_dict"].items()
        if key.startswith(start) and not key.endswith("num_batches_tracked")
    })  # fmt: skip
    recipe = read_pretrained_config(TINY, weights)
    assert recipe.as_dict() == checkpoint["recipe"] | {"source": "best.ckpt"}
    trained_on = read_trained_on(weights)
    assert trained_on is not None
    assert len(trained_on) == json.loads((run / "scores.json").read_text())["files"]["train"]


def test_what_lies_beside_the_weights_is_named(trunk: nn.Module, tmp_path: Path) -> None:
    torch.save({"state_dict": trunk.state_dict(), "args": Path("x")}, tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"it contains pathlib\S* beside the weights: save its s"):
        load_trunk(trunk, TINY, str(tmp_path / "w.pth"))


@pytest.mark.parametrize("wrap", [None, "state_dict", "model"])
def test_a_pth_file(trunk: nn.Module, tmp_path: Path, wrap: str | None) -> None:
    state = trunk.state_dict() | {"classifier.weight": torch.zeros(10, 3)}
    torch.save({wrap: state, "epoch": 3} if wrap else state, tmp_path / "w.pth")
    fresh = create_trunk(TINY, PretrainedConfig())
    load_trunk(fresh, TINY, str(tmp_path / "w.pth"))
    assert_equal(state_of(fresh), state_of(trunk))


def test_a_safetensors_file_brings_its_recipe(tmp_path: Path) -> None:
    wanted = PretrainedConfig(
        "w.safetensors", (0.1, 0.2, 0.3), (1.0, 1.0, 1.0), {"pad_type": "same"}
    )
    trunk = create_trunk(V1, wanted)
    said = {"mean": "0.1,0.2,0.3", "std": "1", "pad_type": "same"}
    save_file(state_of(trunk), tmp_path / "w.safetensors", said)
    assert read_pretrained_config(V1, str(tmp_path / "w.safetensors")) == wanted


def test_keras_names_and_shapes(tmp_path: Path) -> None:
    """A file in Keras' layout, made from a trunk of ours, gives the same trunk back."""
    options = {"pad_type": "same", "bn_eps": 1e-3}
    trunk = create_trunk(V1, PretrainedConfig(options=options))  # type: ignore[arg-type]
    write_keras(state_of(trunk), tmp_path / "w.h5")
    fresh = create_trunk(V1, PretrainedConfig())
    load_trunk(fresh, V1, str(tmp_path / "w.h5"))
    assert_equal(state_of(fresh), state_of(trunk))
    recipe = read_pretrained_config(V1, str(tmp_path / "w.h5"))
    assert recipe.options == options | {"bn_momentum": 0.01}
    assert recipe.mean == recipe.std == (0.5, 0.5, 0.5)


def write_keras(state: dict[str, torch.Tensor], path: Path) -> None:
    """Writes mobilenet weights as Keras does: layers conv1, conv_dw_1, conv_dw_1_bn, ..."""
    ours = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean"}
    blocks: list[str] = []
    with h5py.File(path, "w") as file:
        for key, value in state.items():
            module, parameter = key.rsplit(".", 1)
            if module.startswith("blocks"):
                block, layer = module.rsplit(".", 1)
                if block not in blocks:
                    blocks.append(block)
                number = blocks.index(block) + 1
                kinds = {"conv_dw": "dw_{}", "bn1": "dw_{}_bn", "conv_pw": "pw_{}"}
                name = "conv_" + kinds.get(layer, "pw_{}_bn").format(number)
            else:
                name = {"conv_stem": "conv1", "bn1": "conv1_bn"}[module]
            array = value.numpy()
            if array.ndim == 4:
                order = (2, 3, 0, 1) if "dw" in name else (2, 3, 1, 0)
                array, kind = array.transpose(order), "kernel"
            else:
                kind = ours.get(parameter, "moving_variance")
            file[f"{name}/{name}/{kind}:0"] = np.ascontiguousarray(array)


@pytest.mark.real
def test_two_files_of_the_same_weights_give_equal_features(real_zip: Path) -> None:
    folder = real_zip.parent.parent / "weights"
    features = []
    images = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    for name in ("mobilenetv1_100.tf_in1k.safetensors", "mobilenet_1_0_224_tf_no_top.h5"):
        weights = str(folder / name)
        recipe = read_pretrained_config(V1, weights)
        assert recipe.options == {"pad_type": "same", "bn_eps": 1e-3, "bn_momentum": 0.01}
        trunk = create_trunk(V1, recipe).eval()
        load_trunk(trunk, V1, weights)
        features.append(trunk(images))
    torch.testing.assert_close(*features)
    assert features[0].std() > 0.1


def test_weights_of_another_backbone(trunk: nn.Module, tmp_path: Path) -> None:
    torch.save(trunk.state_dict(), tmp_path / "w.pth")
    other = create_trunk("mobilenetv3_small_050", PretrainedConfig())
    before = {key: value.clone() for key, value in state_of(other).items()}
    with pytest.raises(InputError) as refused:
        load_trunk(other, "mobilenetv3_small_050", str(tmp_path / "w.pth"))
    message = str(refused.value)
    assert "does not fit model.backbone='mobilenetv3_small_050'" in message
    assert "wrong shape: " in message
    assert " is (" in message
    assert "), needs (" in message
    assert "missing: blocks." in message
    assert "Give the backbone of the weights" in message
    assert_equal(state_of(other), before)


def test_no_such_file(trunk: nn.Module) -> None:
    with pytest.raises(
        InputError, match=r"model\.weights='no\.pth' is neither a file nor 'imagenet', 'bundled'"
    ):
        load_trunk(trunk, TINY, "no.pth")


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors", "w.h5"])
def test_a_damaged_file(trunk: nn.Module, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"damaged" * 100)
    with pytest.raises(InputError, match=rf"{name}' cannot be read as weights \(.*Give model\.wei"):
        load_trunk(trunk, TINY, str(tmp_path / name))


def test_a_file_of_no_known_kind(trunk: nn.Module, tmp_path: Path) -> None:
    (tmp_path / "w.onnx").touch()
    with pytest.raises(InputError, match=r"w\.onnx' has an unknown file type"):
        load_trunk(trunk, TINY, str(tmp_path / "w.onnx"))


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("evil",)


def test_code_in_a_file_is_not_run(trunk: nn.Module, tmp_path: Path) -> None:
    torch.save({"state_dict": Evil()}, tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"cannot be read as weights"):
        load_trunk(trunk, TINY, str(tmp_path / "w.pth"))
    assert not (tmp_path / "evil").exists()


def test_a_tag_timm_has_not() -> None:
    with pytest.raises(
        InputError, match=r"mobilenetv1_100\.bogus': timm has the model but not thi"
    ):
        read_pretrained_config("mobilenetv1_100.bogus", "imagenet")


def test_imagenet_without_a_network(trunk: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setattr("urllib.request.getproxies", dict)
    with pytest.raises(InputError, match=r"'test_efficientnet' could not be downloaded.*or 'none'"):
        load_trunk(trunk, TINY, "imagenet")


def test_imagenet_from_the_hubs_cache(
    trunk: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real way through timm and its hub client, answered by a cache made here."""
    snapshot = tmp_path / "models--timm--test_efficientnet.r160_in1k" / "snapshots" / "0"
    snapshot.mkdir(parents=True)
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs" / "main").write_text("0")
    whole = {"classifier.weight": torch.zeros(1000, 256), "classifier.bias": torch.zeros(1000)}
    save_file(trunk.state_dict() | whole, snapshot / "model.safetensors")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    fresh = create_trunk(TINY, PretrainedConfig())
    load_trunk(fresh, TINY, "imagenet")
    assert_equal(state_of(fresh), state_of(trunk))
    assert read_pretrained_config(TINY, "imagenet").source == "imagenet"


def test_a_model_without_imagenet_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("timm.get_pretrained_cfg", lambda _: None)
    with pytest.raises(InputError, match=r"timm has no pretrained weights for model\.backbone="):
        load_trunk(nn.Identity(), "mobilenetv1_100", "imagenet")
