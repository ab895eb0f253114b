"""Where in an image the evidence for a class lies."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from bloodcell.data.crop import Pixels
from bloodcell.infer.saved import Saved
from bloodcell.infer.torch_runtime import as_images, soften
from bloodcell.model.gallery import Features

Heat = NDArray[np.float32]


class Seen(NamedTuple):
    """What a model makes of some images.

    Attributes:
        heat: (B, size, size), 0 to 1 in each image; all 0 if nothing speaks for the class.
        probability: (B, classes).
        features: (B, C), the trunk's map averaged, as a gallery has them.
    """

    heat: Heat
    probability: NDArray[np.float32]
    features: Features


def find_heat(saved: Saved, pixels: Pixels) -> Seen:
    """Finds what in each image speaks for the class it is given.

    Grad-CAM (Selvaraju et al., ICCV 2017) over the trunk's last map, with each place weighted by
    its own gradient (HiResCAM, Draelos and Carin, 2020): the same where the map is averaged, and
    right where it is flattened, for which the mean gradient of Grad-CAM mixes up the places.

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
    probability = soften(logits.detach(), saved.description.temperature)
    return Seen(heat.numpy(), probability.numpy(), maps.detach().mean((2, 3)).numpy())
