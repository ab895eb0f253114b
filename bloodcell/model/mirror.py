"""Keras' padding without a padded copy of each feature map, for training and inference.

A convolution with a stride of 2 on an even side has one pixel of padding too many. Keras leaves it
out at the start of the side, PyTorch at its end. A mirrored image with mirrored kernels swaps the
two: there, PyTorch's own padding gives Keras' result, mirrored.
"""

from collections.abc import Callable
from functools import partial

from timm.layers.conv2d_same import Conv2dSame
from timm.models.efficientnet import EfficientNet
from torch import Tensor, nn
from torch.nn import functional as F

# of the layers that treat each position alike; BatchNorm has such layers within
_POINTWISE = ("torch.nn.modules.activation", "timm.layers.activations")


class Mirror:
    """Lets a trunk with Keras' padding take mirrored images, and return mirrored maps.

    Args:
        trunk: modified in place; its parameters and their names do not change.

    Attributes:
        on: whether the trunk takes mirrored images. Trunks without Keras' padding, and those with
            layers whose mirror is not known, never do.
        stays: whether it also takes them in evaluation, where the results differ by rounding.
    """

    def __init__(self, trunk: nn.Module) -> None:
        convolutions = [module for module in trunk.modules() if isinstance(module, nn.Conv2d)]
        self.on = self.stays = False
        self._known = (
            isinstance(trunk, EfficientNet)
            and any(map(_has_keras_padding, convolutions))
            and all(_has_mirror(leaf) for leaf in trunk.modules() if not list(leaf.children()))
        )
        if self._known:
            for one in convolutions:
                vars(one)["forward"] = partial(_convolve, self, one, one.forward)

    def switch(self, on: bool) -> None:
        """Lets the trunk take mirrored images from now on, if it can, or plain ones."""
        self.on = (on or self.stays) and self._known

    def flip(self, x: Tensor) -> Tensor:
        """Mirrors images or maps (B, C, H, W) on both axes; not if `on` is False."""
        return x.flip(2, 3) if self.on else x


def _has_keras_padding(convolution: nn.Conv2d) -> bool:
    return isinstance(convolution, Conv2dSame)


def _has_mirror(leaf: nn.Module) -> bool:
    """Returns whether a layer is a convolution with a mirror, or has no extent."""
    if not isinstance(leaf, nn.Conv2d):
        return isinstance(leaf, nn.Identity) or type(leaf).__module__ in _POINTWISE
    size, stride = max(leaf.kernel_size), max(leaf.stride)
    if stride == 1:
        keeps_side = _has_keras_padding(leaf) or leaf.padding == _same_padding(leaf)
        return keeps_side and size % 2 == 1
    return _has_keras_padding(leaf) and stride == 2 and size % 2 == 1 and size > 1


def _convolve(
    mirror: Mirror, convolution: nn.Conv2d, plain: Callable[[Tensor], Tensor], x: Tensor
) -> Tensor:
    if not mirror.on:
        return plain(x)
    c, weight = convolution, convolution.weight
    if max(c.kernel_size) > 1:
        weight = weight.flip(2, 3)
    return F.conv2d(x, weight, c.bias, c.stride, _same_padding(c), c.dilation, c.groups)


def _same_padding(c: nn.Conv2d) -> tuple[int, ...]:
    """Returns the padding with which odd kernels and a stride of 1 keep the sides of a map."""
    return tuple(
        (size - 1) * step // 2 for size, step in zip(c.kernel_size, c.dilation, strict=True)
    )
