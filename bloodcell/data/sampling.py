"""Samples squares of any size and place from pictures, antialiased, with ONNX operations only."""

import torch
from torch import Tensor


def sample(
    images: Tensor, centres: Tensor, sides: Tensor, height: int, width: int
) -> tuple[Tensor, Tensor]:
    """Samples a rectangle from each picture, which is enlarged or reduced to one size.

    Rows and columns are weighted with the triangle of Pillow's bilinear filter, whose width grows
    with the reduction. The weights are matrices, so each picture may have its own scale.

    Args:
        images: (B, 3, H, W), float.
        centres: (B, 2), x and y of the rectangles' centres in pixels.
        sides: (B, 1), width of the rectangles in pixels; their height has the same scale.
        height: height of the result in pixels.
        width: width of the result in pixels.

    Returns:
        The rectangles (B, 3, height, width), 0 outside of the picture, and (B, 1, height, width),
        which is 1 inside of the picture and 0 outside.
    """
    step = sides / width  # pixels of the picture for one of the result, (B, 1)
    rows, in_rows = _weigh(images.shape[2], centres[:, 1:], step, height)
    columns, in_columns = _weigh(images.shape[3], centres[:, :1], step, width)
    part = rows[:, None] @ images @ columns[:, None].transpose(2, 3)
    return part, (in_rows[:, :, None] * in_columns[:, None, :])[:, None]


def sample_near(image: Tensor, x: float, y: float, side: float, size: int) -> tuple[Tensor, Tensor]:
    """Samples a square from a large picture, reading only the pixels around it.

    Args:
        image: (3, H, W), float.
        x: distance of the square's centre from the left edge, in pixels.
        y: distance of the square's centre from the upper edge, in pixels.
        side: side of the square in pixels of the picture.
        size: side of the result in pixels.

    Returns:
        (1, 3, size, size) and (1, 1, size, size), as for `sample`.
    """
    reach = side / 2 + side / size + 2  # with the triangle of the filter
    height, width = image.shape[1:]
    left, top = (max(0, min(int(c - reach), n - 1)) for c, n in ((x, width), (y, height)))
    near = image[None, :, top : max(top + 1, int(y + reach)), left : max(left + 1, int(x + reach))]
    centre = torch.tensor([[x - left, y - top]])
    return sample(near, centre, torch.tensor([[side]]), size, size)


def _weigh(length: int, centre: Tensor, step: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Returns the weights (B, count, length) of pixels, and (B, count), 1 inside the picture."""
    places = torch.arange(count, device=step.device, dtype=step.dtype) + 0.5 - count / 2
    at = centre + step * places  # (B, count)
    pixels = torch.arange(length, device=step.device, dtype=step.dtype) + 0.5
    far = (at[:, :, None] - pixels).abs() / step.clamp(min=1)[:, :, None]
    weights = (1 - far).clamp(min=0)
    inside = ((at >= 0) & (at <= length)).to(step.dtype)
    total = weights.sum(2).clamp(min=1e-6)
    return weights * (inside / total)[:, :, None], inside
