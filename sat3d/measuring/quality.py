"""Whether edited images still look like the generator's: kernel inception distance."""

import warnings

import torch
from torch import Tensor

_SUBSETS = 50
_LARGEST = 100
_LEAST = 10


def kid(real: Tensor, edited: Tensor, seed: int) -> tuple[float | None, str]:
    """(KID of two sets of features [M, E] and [P, E], ''), or (None, reason).

    Binkowski et al. 2018, by torchmetrics: the unbiased squared MMD under the kernel
    ``(x . y / E + 1)^3``, a mean over subsets; near 0 for sets of one distribution. Features are
    divided by their spread in ``real``. Not on Inception features, so not to be compared with
    published numbers.
    """
    try:
        from torchmetrics.image.kid import KernelInceptionDistance
    except ImportError:
        return None, "KID: package 'torchmetrics' is not installed. pip install 'sat3d[measure]'."
    size = min(len(real), len(edited), _LARGEST)
    if size < _LEAST:
        return None, f"KID: {size} images are too few; {_LEAST} are needed. Raise --pairs."
    centre, spread = real.mean(dim=0), real.std(dim=0).clamp(min=1e-6)
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")  # a notice that features are kept in memory
        torch.manual_seed(seed)  # it draws its subsets from the global generator
        measure = KernelInceptionDistance(torch.nn.Identity(), subsets=_SUBSETS, subset_size=size)
        measure.update((real - centre) / spread, real=True)
        measure.update((edited - centre) / spread, real=False)
        return float(measure.compute()[0]), ""
