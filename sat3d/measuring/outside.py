"""What changed outside the alterable regions of source and result."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sat3d.measuring.studio import Bank, Edited, Studio
from sat3d.regions import WORD

Distance = Callable[[Tensor, Tensor], Tensor]
"""Two images [B, 3, H, W] in [-1, 1] to a map [B, H, W]."""

_LUMA = (0.299, 0.587, 0.114)
_SIGMA, _REACH = 1.5, 5
_C1, _C2 = 0.01**2, 0.03**2
LPIPS_WEIGHTS = "alexnet-owt-7be5be79.pth"
_LPIPS_LEAST = 64


def outside_of(studio: Studio, bank: Bank, edited: Edited, row: int) -> Tensor | None:
    """Pixels in neither alterable region: [b, H, W] bool; None without segmenter or region."""
    after = studio.region(edited.image, row)
    if after is None or bank.regions is None:
        return None
    word = bank.regions[edited.sources, row // WORD].to(after.device)
    before = (word & (1 << row % WORD)) != 0
    return ~(before | after)


def background(source: Tensor, image: Tensor, outside: Tensor) -> Tensor:
    """Mean |image - source| / 2 over the pixels ``outside`` [b, H, W]: [b]; NaN if there is none.

    Images are [b, 3, H, W] in [-1, 1].
    """
    return _mean((image - source).abs().mean(dim=1) / 2.0, outside)


def preservation(source: Tensor, image: Tensor, outside: Tensor) -> Tensor:
    """Mean structural similarity (Wang et al. 2004) of the pixels ``outside``: [b]; NaN if none.

    1 means untouched. What lies inside is replaced by the source's first, so that no change
    there reaches over the border. Images are [b, 3, H, W] in [-1, 1].
    """
    return _mean(ssim_map(source, _composite(source, image, outside)), outside)


def distance_outside(distance: Distance, source: Tensor, image: Tensor, outside: Tensor) -> Tensor:
    """Mean of a distance map over the pixels ``outside``, as :func:`preservation`: [b]."""
    return _mean(distance(source, _composite(source, image, outside)), outside)


def _composite(source: Tensor, image: Tensor, outside: Tensor) -> Tensor:
    return torch.where(outside[:, None], image, source)


def _mean(values: Tensor, where: Tensor) -> Tensor:
    """Mean of [b, H, W] over the chosen pixels: [b], NaN where none is chosen."""
    return (values * where).sum(dim=(1, 2)) / where.sum(dim=(1, 2))


def ssim_map(one: Tensor, two: Tensor) -> Tensor:
    """Structural similarity of each pixel's neighbourhood, on luma: [B, H, W] in [-1, 1].

    Gaussian window of 11 pixels, sigma 1.5, as in the paper; images [B, 3, H, W] in [-1, 1].
    """
    weights = one.new_tensor(_LUMA, dtype=torch.float64).view(1, 3, 1, 1)
    # In float64: variances are small differences of large numbers.
    x, y = (((image * 0.5 + 0.5) * weights).sum(dim=1, keepdim=True) for image in (one, two))
    mean_x, mean_y, xx, yy, xy = (_blur(z) for z in (x, y, x * x, y * y, x * y))
    covariance = xy - mean_x * mean_y
    spread = (xx - mean_x.square()) + (yy - mean_y.square())
    likeness = (2 * mean_x * mean_y + _C1) * (2 * covariance + _C2)
    found: Tensor = likeness / ((mean_x.square() + mean_y.square() + _C1) * (spread + _C2))
    return found[:, 0]


def _blur(image: Tensor) -> Tensor:
    """Gaussian mean of [B, 1, H, W], mirrored at the edge."""
    ticks = torch.arange(-_REACH, _REACH + 1, device=image.device, dtype=image.dtype)
    bell = torch.exp(-ticks.square() / (2 * _SIGMA**2))
    bell = bell / bell.sum()
    padded = F.pad(image, (_REACH,) * 4, mode="reflect")
    return F.conv2d(F.conv2d(padded, bell.view(1, 1, 1, -1)), bell.view(1, 1, -1, 1))


def load_lpips(device: torch.device) -> tuple[Distance | None, str]:
    """LPIPS (Zhang et al. 2018) by the package ``lpips``, or None and the reason.

    Nothing is downloaded: the weights of its AlexNet must be in torch's own store.
    """
    try:
        import lpips
    except ImportError:
        return None, "LPIPS: package 'lpips' is not installed. pip install 'sat3d[measure]'."
    store = Path(torch.hub.get_dir()) / "checkpoints" / LPIPS_WEIGHTS
    if not store.is_file():
        return None, f"LPIPS: its AlexNet is not there. Put {LPIPS_WEIGHTS} into '{store.parent}'."
    import warnings

    with warnings.catch_warnings():  # it calls torchvision in a way that is out of date
        warnings.simplefilter("ignore")
        network: Any = lpips.LPIPS(net="alex", spatial=True, verbose=False)
    network = network.eval().requires_grad_(False).to(device)

    def distance(one: Tensor, two: Tensor) -> Tensor:
        side = max(_LPIPS_LEAST, one.shape[-1])  # smaller images vanish inside the network
        pair = [F.interpolate(x, (side, side), mode="bilinear") for x in (one, two)]
        found: Tensor = network(*pair)
        return F.interpolate(found, one.shape[-2:], mode="bilinear")[:, 0]

    return distance, ""
