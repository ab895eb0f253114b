"""Where in an image the evidence for a class lies."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from bloodcell.data.decode import Pixels
from bloodcell.use.saved import Saved
from bloodcell.use.torch_model import as_images, soften

Heat = NDArray[np.float32]


def find_heat(saved: Saved, pixels: Pixels) -> tuple[Heat, NDArray[np.float32]]:
    """Finds what in each image speaks for the class it is given.

    Grad-CAM (Selvaraju et al., ICCV 2017) over the trunk's last map, with each place weighted by
    its own gradient (HiResCAM, Draelos and Carin, 2020): the same where the map is averaged, and
    right where it is flattened, for which the mean gradient of Grad-CAM mixes up the places.

    Args:
        saved: the model.
        pixels: (B, size, size, 3).

    Returns:
        Heat (B, size, size), 0 to 1 in each image (all 0 if nothing speaks for the class), and
        probabilities (B, classes).
    """
    with torch.no_grad():
        maps = saved.network.maps(as_images(pixels, torch.device("cpu")))
    with torch.enable_grad():
        maps = maps.detach().requires_grad_()
        logits = saved.network.classify(maps)
        chosen = logits.max(1).values.sum()
        (gradient,) = torch.autograd.grad(chosen, maps)
    heat = (gradient * maps).sum(1, keepdim=True).relu().detach()
    heat = F.interpolate(heat, pixels.shape[1:3], mode="bilinear")[:, 0]
    heat = heat / heat.amax((1, 2), keepdim=True).clamp(min=1e-12)
    probability = soften(logits.detach(), saved.description.temperature)
    return heat.numpy(), probability.numpy()
