"""Changes how images look in the ways in which laboratories differ: dye, light, optics, camera.

Dye and light act on optical densities: more dye multiplies them, another dye or camera mixes the
channels, and another light adds to them. All of it is one matrix and one offset for each image.
With all draws at 0, an image stays as it is.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

N_DRAWS = 23  # random numbers for each image
GRAIN = 64  # side in pixels of the tile of noise, which is repeated over the image

# ranges; densities are natural logarithms, so 0.3 is about 30 %
_DYE, _CHANNEL = 0.35, 0.15  # log of the factor of all densities, and of each channel's
_MIXING = 0.12  # share of another channel's density
_LIGHT, _TINT = 0.15, 0.1  # density added to all channels, and to each of them
_SLOPE, _VIGNETTE = 0.15, 0.2  # density from centre to edge, and from centre to corner
_SATURATION, _GREY = 0.5, 0.05  # relative change; share of images without colour
_BLUR, _SHARPEN = 1.0, 0.5  # share of the difference to the image blurred over a 32nd of its side
_NOISE = 12.0  # 0 to 255
_JPEG = 1.0  # multiple of the steps of JPEG's quality 50
_LUMA = (0.299, 0.587, 0.114)  # shares of red, green and blue in the brightness, as in JPEG
_BLOCK = 8  # pixels


def restain(images: Tensor, draws: Tensor, grain: Tensor) -> Tensor:
    """Changes stain, light, sharpness, noise and compression of each image.

    Args:
        images: (B, 3, H, W) float, 0 to 255.
        draws: (B, N_DRAWS), uniform from -1 to 1.
        grain: (B, GRAIN^2), uniform from -1 to 1.

    Returns:
        (B, 3, H, W), 0 to 255.
    """
    dye, light, shade, camera = torch.split(draws, [12, 4, 3, 4], 1)
    density = -((images + 1) / 256).log()
    mixed = torch.einsum("bij,bjhw->bihw", _mix_stains(dye, camera[:, 0]), density)
    offset = _LIGHT * light[:, :1] + _TINT * light[:, 1:]  # (B, 3)
    mixed = mixed + offset[:, :, None, None] + _shade(shade, images.shape[2:])
    seen = (256 * (-mixed).exp() - 1).clamp(0, 255)
    blur, noise, loss = camera[:, 1:, None, None, None].unbind(1)
    seen = _focus(seen, blur) + _NOISE * noise.clamp(min=0) * _spread(grain, images.shape[2:])
    return _compress(seen, _JPEG * loss).clamp(0, 255)


def _mix_stains(draws: Tensor, colour: Tensor) -> Tensor:
    """Returns (B, 3, 3), which maps densities to those of another stain and camera.

    Args:
        draws: (B, 12).
        colour: (B,), draws of the saturation; the highest ones remove all colour.
    """
    same = torch.eye(3, device=draws.device)
    factor = (_DYE * draws[:, :1] + _CHANNEL * draws[:, 1:4]).exp()
    others = _MIXING * F.pad(draws[:, 4:12], (0, 1)).view(-1, 3, 3) * (1 - same)
    kept = torch.where(colour > 1 - 2 * _GREY, 0, 1 + _SATURATION * colour)[:, None, None]
    saturate = kept * same + (1 - kept) / 3
    return (torch.diag_embed(factor) + others) @ saturate


def _shade(draws: Tensor, size: torch.Size) -> Tensor:
    """Returns the density (B, 1, H, W) of uneven light. `draws` is (B, 3)."""
    y, x = (torch.linspace(-1, 1, n, device=draws.device) for n in size)
    down, across, round_ = draws[:, :, None, None].unbind(1)
    slope = _SLOPE * (down * y[:, None] + across * x)
    return (slope + _VIGNETTE * round_ * (y[:, None] ** 2 + x**2 - 2 / 3) / 2)[:, None]


def _focus(images: Tensor, blur: Tensor) -> Tensor:
    """Blurs each image, or sharpens it where `blur`, (B, 1, 1, 1), is negative."""
    radius = max(1, round(min(images.shape[2:]) / 64))
    length = 2 * radius + 1
    smooth = F.avg_pool2d(images, (length, 1), 1, (radius, 0), count_include_pad=False)
    smooth = F.avg_pool2d(smooth, (1, length), 1, (0, radius), count_include_pad=False)
    return images + torch.where(blur < 0, _SHARPEN, _BLUR) * blur * (smooth - images)


def _spread(grain: Tensor, size: torch.Size) -> Tensor:
    """Repeats a tile of noise, (B, GRAIN^2), over an image: (B, 1, H, W)."""
    height, width = size
    times = (1, 1, math.ceil(height / GRAIN), math.ceil(width / GRAIN))
    return grain.view(-1, 1, GRAIN, GRAIN).repeat(times)[:, :, :height, :width]


def _compress(images: Tensor, loss: Tensor) -> Tensor:
    """Rounds the frequencies of blocks as JPEG does, but keeps the resolution of the colours.

    Args:
        images: (B, 3, H, W), 0 to 255.
        loss: (B, 1, 1, 1), multiple of JPEG's steps; 0 or less leaves the image as it is.
    """
    height, width = images.shape[2:]
    padded = F.pad(images, (0, -width % _BLOCK, 0, -height % _BLOCK), mode="replicate")
    shares = zip(_LUMA, padded.unbind(1), strict=True)
    luma = torch.stack([share * plane for share, plane in shares]).sum(0)
    planes = torch.stack([luma, padded[:, 0] - luma, padded[:, 2] - luma], 1)
    order = torch.arange(_BLOCK, device=images.device)
    # rows of the discrete cosine transform
    waves = ((2 * order + 1) * order[:, None] * (math.pi / (2 * _BLOCK))).cos()
    waves = waves * torch.where(order > 0, 2 / _BLOCK, 1 / _BLOCK).sqrt()[:, None]
    down = waves @ torch.unflatten(planes, 2, (-1, _BLOCK))  # (B, 3, H / 8, 8, W)
    frequencies = torch.unflatten(down, 4, (-1, _BLOCK)) @ waves.T  # (B, 3, H / 8, 8, W / 8, 8)
    steps = (12.0 + 6 * (order[:, None] + order))[:, None]  # about JPEG's table, (8, 1, 8)
    steps = steps * loss.clamp(min=1e-3)[..., None, None]
    rounded = ((frequencies / steps).round() * steps) @ waves
    luma, *others = (waves.T @ rounded.flatten(4)).flatten(2, 3).unbind(1)
    red, blue = (luma + other for other in others)
    green = (luma - _LUMA[0] * red - _LUMA[2] * blue) / _LUMA[1]
    changed = torch.stack([red, green, blue], 1)[:, :, :height, :width]
    return torch.where(loss > 0, changed, images)
