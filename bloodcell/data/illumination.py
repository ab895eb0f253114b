"""Takes the light of lamp, lens and slide out of pictures, which leaves the optical density."""

import torch
from torch import Tensor
from torch.nn import functional as F

_COARSE = 4  # the light is estimated from a picture reduced by this factor
_WINDOW = 0.4  # width of the filter relative to the picture's longer side; applied twice
_ROUNDS = 2  # after two rounds, pixels above the mean brightness contain no cells
_FAR = 0.02  # weight of the whole picture's mean, for places far from any clear slide
_DARK = 25.0  # 0 to 255; darker pixels are the black border of a rotated or shifted copy
LEAST_LIGHT = 8.0  # 0 to 255; darker values have no reliable density
_WHITE = 235.0  # 0 to 255; value of the clear slide after balancing, which leaves room above it
_LEAST, _MOST = -0.5, 2.5  # range of the densities


def find_density(images: Tensor, inside: Tensor) -> Tensor:
    """Returns the optical density relative to the clear slide nearby, which may be unevenly lit.

    Args:
        images: (B, 3, H, W), 0 to 255, float; H and W are multiples of 4.
        inside: (B, 1, H, W), 1 inside of the picture and 0 outside.

    Returns:
        (B, 4, H, W): the densities of red, green and blue, 0 outside of the slide; and 1 on the
        slide, 0 outside.
    """
    slide = inside * find_slide(images)
    light = _find_light(images, slide).clamp(min=LEAST_LIGHT)
    density = -(images.clamp(min=LEAST_LIGHT) / light).log()
    return torch.cat([density.clamp(_LEAST, _MOST) * slide, slide], 1)


def balance_white(images: Tensor) -> Tensor:
    """Divides each image by the colour of its clear slide, which becomes a light grey.

    So the colour and strength of the lamp, and the camera's white balance, hardly matter.

    Args:
        images: (B, 3, H, W), 0 to 255, of any dtype.

    Returns:
        (B, 3, H, W) float32, 0 to 255.
    """
    values = images.float()
    return (values * (_WHITE / find_slide_colour(values, find_slide(values)))).clamp(0, 255)


def find_slide(images: Tensor) -> Tensor:
    """Returns 1 on the slide and 0 in the black border of copies, (B, 1, H, W).

    Args:
        images: (B, 3, H, W), 0 to 255, float.
    """
    return (images.amax(1, keepdim=True) > _DARK).to(images.dtype)


def find_slide_colour(images: Tensor, slide: Tensor) -> Tensor:
    """Returns the mean colour of the clear slide, (B, 3, 1, 1), 8 to 255.

    Args:
        images: (B, 3, H, W), 0 to 255, float.
        slide: (B, 1, H, W), 1 inside of the picture and 0 in black borders.
    """
    brightness = images.mean(1, keepdim=True)
    bright = slide
    for _ in range(_ROUNDS):
        bright = bright * (brightness >= _mean(brightness, bright)).float()
    return _mean(images, bright).clamp(min=LEAST_LIGHT)


def _mean(values: Tensor, where: Tensor) -> Tensor:
    """Returns the mean of each picture where `where` is 1."""
    return (values * where).sum((2, 3), keepdim=True) / where.sum((2, 3), keepdim=True).clamp(min=1)


def _find_light(images: Tensor, slide: Tensor) -> Tensor:
    """Returns the light through the clear slide, smooth over a large part of the picture.

    Cells absorb light, so the clear slide is brighter than the mean around it. If the light
    falls off strongly, half of the slope remains; the network was trained on such pictures.
    """
    size = images.shape[2:]
    small = F.avg_pool2d(images * slide, _COARSE)
    weight = F.avg_pool2d(slide, _COARSE)
    small = small / weight.clamp(min=1e-3)
    width = int(_WINDOW * max(small.shape[2:])) | 1  # odd
    brightness = small.mean(1, keepdim=True)
    for _ in range(_ROUNDS):
        weight = weight * (brightness >= _mean_around(brightness, weight, width)).to(weight.dtype)
    light = _mean_around(small, weight, width)
    return F.interpolate(light, size, mode="bilinear")


def _mean_around(values: Tensor, weight: Tensor, width: int) -> Tensor:
    """Returns the weighted mean around each pixel, with a little of the whole picture's."""
    far = _FAR * weight.mean((2, 3), keepdim=True)
    all_values = _FAR * (values * weight).mean((2, 3), keepdim=True)
    near = smooth(weight, width)
    return (smooth(values * weight, width) + all_values) / (near + far).clamp(min=1e-6)


def smooth(values: Tensor, width: int) -> Tensor:
    """Returns the mean over a square around each pixel, applied twice.

    Args:
        values: (B, C, H, W).
        width: odd width of the square in pixels.
    """
    for _ in range(2):  # first columns, then rows, which is faster than squares
        values = F.avg_pool2d(values, (width, 1), 1, (width // 2, 0))
        values = F.avg_pool2d(values, (1, width), 1, (0, width // 2))
    return values
