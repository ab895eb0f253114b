"""Computes heat maps of the evidence for the predicted class of an image."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from bloodcell.data.crop import Pixels
from bloodcell.infer.saved import Saved
from bloodcell.infer.torch_runtime import apply_temperature, as_images


class Attribution(NamedTuple):
    """Predictions for a batch of images, with heat maps of their evidence.

    Attributes:
        heat: (B, size, size), 0 to 1 in each image; all 0 if there is no evidence for the class.
        probability: (B, classes).
        features: (B, C), the mean over positions of the trunk's feature map, for `Gallery`.
    """

    heat: NDArray[np.float32]
    probability: NDArray[np.float32]
    features: Tensor


def find_heat(saved: Saved, pixels: Pixels) -> Attribution:
    """Computes a heat map of the evidence for each image's most probable class.

    The method is HiResCAM (Draelos and Carin, 2020): Grad-CAM (Selvaraju et al., ICCV 2017) with
    each position of the last feature map weighted by its own gradient. Both methods agree for `avg`
    pooling; for `flatten`, Grad-CAM's mean gradient would mix the positions.

    Args:
        saved: the model.
        pixels: (B, size, size, 3).
    """
    with torch.no_grad():
        maps = saved.network.maps(as_images(pixels, torch.device("cpu")))
    with torch.enable_grad():
        maps = maps.detach().requires_grad_()
        logits = saved.network.classify(maps)
        chosen = logits.max(1).values.sum()
        (gradient,) = torch.autograd.grad(chosen, maps)
    heat = (gradient * maps).sum(1, keepdim=True).relu().detach()
    if not saved.network.has_map:  # pooled features have no positions
        heat = torch.zeros_like(heat)
    heat = F.interpolate(heat, pixels.shape[1:3], mode="bilinear")[:, 0]
    heat = heat / heat.amax((1, 2), keepdim=True).clamp(min=1e-12)
    probability = apply_temperature(logits.detach(), saved.description.temperature)
    return Attribution(heat.numpy(), probability.numpy(), maps.detach().mean((2, 3)))
