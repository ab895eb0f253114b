"""Finds the parts of an image that speak for its predicted class."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from bloodcell.data.crop import Pixels
from bloodcell.infer.saved import Saved
from bloodcell.infer.torch_runtime import apply_temperature, as_images
from bloodcell.model.gallery import Features


class Attribution(NamedTuple):
    """The answers for a batch of images, and the parts of the images that they rest on.

    Attributes:
        heat: (B, size, size), 0 to 1 in each image; all 0 if nothing speaks for the class.
        probability: (B, classes).
        features: (B, C), the mean of the trunk's map, as a gallery has them.
    """

    heat: NDArray[np.float32]
    probability: NDArray[np.float32]
    features: Features


def find_heat(saved: Saved, pixels: Pixels) -> Attribution:
    """Finds the parts of each image that speak for its most probable class.

    Grad-CAM (Selvaraju et al., ICCV 2017) over the trunk's last map, with each position weighted by
    its own gradient (HiResCAM, Draelos and Carin, 2020). Both are the same where the map is
    averaged; where it is flattened, the mean gradient of Grad-CAM would mix the positions.

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
    if not saved.network.has_map:  # a single value shows no place
        heat = torch.zeros_like(heat)
    heat = F.interpolate(heat, pixels.shape[1:3], mode="bilinear")[:, 0]
    heat = heat / heat.amax((1, 2), keepdim=True).clamp(min=1e-12)
    probability = apply_temperature(logits.detach(), saved.description.temperature)
    return Attribution(heat.numpy(), probability.numpy(), maps.detach().mean((2, 3)).numpy())
