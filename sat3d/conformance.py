"""Checks that a plugin's generator, segmenter or reader is what the core expects.

Reached as :mod:`sat3d.testing`, beside the toys.
"""

import torch
from torch import Tensor

from sat3d.interfaces import Generator, Reader, Segmenter, StyleLayout


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise AssertionError(message)


def check_generator(generator: Generator, tolerance: float = 1e-4, bound: float = 4.0) -> None:
    """Raise AssertionError, naming what is wrong, if a generator is not what the core expects.

    ``tolerance`` bounds what batching may change: convolutions sum in another order. ``bound`` is
    the largest value that passes for an image in [-1, 1]; with random weights allow more.
    """
    _check_layout(generator.layout)
    z = generator.sample_latents(3, seed=5)
    cameras = generator.sample_cameras(3, seed=5)
    _require(z.shape == (3, generator.latent_dim), "sample_latents is not [count, latent_dim]")
    _require(torch.equal(z, generator.sample_latents(3, seed=5)), "sample_latents ignores the seed")
    _check_cameras(generator, cameras)
    w = generator.map(z, cameras)
    _require(w.ndim == 3 and len(w) == 3, "map does not give w [B, L, W]")
    styles = generator.styles(w).detach()
    _require(styles.shape == (3, generator.layout.channels), "styles does not give [B, N]")
    _check_render(generator, styles, cameras, tolerance, bound)
    _check_gradients(generator, styles, cameras)


def _check_layout(layout: StyleLayout) -> None:
    names = [layer.name for layer in layout.layers]
    _require(len(set(names)) == len(names), "layer names repeat")
    _require(layout.editable_channels > 0, "no layer is an editable backbone convolution")
    code = torch.arange(2.0 * layout.channels).view(2, -1)
    _require(torch.equal(layout.join(layout.split(code)), code), "split and join do not agree")


def _check_cameras(generator: Generator, cameras: Tensor | None) -> None:
    if not generator.is_3d:
        _require(cameras is None and generator.orbit(0.0, 0.0) is None, "a 2D camera is None")
        return
    _require(cameras is not None and cameras.shape == (3, 25), "sample_cameras is not [count, 25]")
    front = generator.orbit(0.0, 0.0)
    _require(front is not None and front.shape == (1, 25), "orbit does not give [1, 25]")
    assert cameras is not None
    turn = cameras[:, :16].view(3, 4, 4)[:, :3, :3]
    error = (turn @ turn.transpose(1, 2) - torch.eye(3).to(turn)).abs().max()
    _require(float(error) < 1e-3, "a camera's rotation is not orthonormal")


@torch.no_grad()
def _check_render(
    generator: Generator, styles: Tensor, cameras: Tensor | None, tolerance: float, bound: float
) -> None:
    side = generator.resolution
    drawn = generator.render(styles, cameras)
    _require(drawn.image.shape == (3, 3, side, side), "render does not give [B, 3, H, W]")
    _require(drawn.image.dtype == torch.float32, "the image is not float32")
    _require(bool(drawn.image.isfinite().all()), "the image holds numbers that are not finite")
    # Nominally in [-1, 1]: overshoot is allowed, another range is not.
    _require(float(drawn.image.abs().max()) < bound, "the image is far outside [-1, 1]")
    _require((drawn.depth is not None) == generator.is_3d, "depth belongs to 3D, and always")
    again = generator.render(styles, cameras).image
    _require(torch.equal(drawn.image, again), "two renders differ: the generator keeps state")
    one = generator.render(styles[1:2], None if cameras is None else cameras[1:2]).image
    error = float((one - drawn.image[1:2]).abs().max())
    _require(error <= tolerance, f"an image depends on its batch (by {error:.2g})")
    seeded = [generator.render(styles, cameras, seed=7).image for _ in range(2)]
    _require(torch.equal(*seeded), "two renders with one seed differ")
    draft = generator.render(styles, cameras, draft=True).image
    _require(draft.ndim == 4 and draft.shape[2] <= side, "a draft is larger than the full render")


def _check_gradients(generator: Generator, styles: Tensor, cameras: Tensor | None) -> None:
    code = styles.clone().requires_grad_()
    generator.render(code, cameras).image.square().mean().backward()
    _require(code.grad is not None and bool(code.grad.isfinite().all()), "no gradient to styles")
    assert code.grad is not None
    reached = (code.grad[:, generator.layout.editable.to(code.device)] != 0).any(dim=0)
    _require(float(reached.float().mean()) > 0.5, "most editable channels have no gradient")
    weights = [x for x in vars(generator).values() if isinstance(x, torch.nn.Module)]
    grads = [p.grad for module in weights for p in module.parameters() if p.grad is not None]
    _require(not grads, "gradients reach the weights: freeze them")


@torch.no_grad()
def check_segmenter(segmenter: Segmenter, size: int = 64) -> None:
    """Raise AssertionError, naming what is wrong, if a segmenter is not what the core expects."""
    labels = segmenter.labels
    _require(len(set(labels)) == len(labels) > 0, "labels repeat or are missing")
    image = _noise(size).to(segmenter.device)
    found = segmenter.segment(image)
    _require(found.shape == (3, len(labels), size, size), "segment does not give [B, K, H, W]")
    _check_shares(found.movedim(1, -1), "segment")
    error = float((segmenter.segment(image[1:2]) - found[1:2]).abs().max())
    _require(error < 1e-4, f"a segmentation depends on its batch (by {error:.2g})")


@torch.no_grad()
def check_reader(reader: Reader, size: int = 64) -> None:
    """Raise AssertionError, naming what is wrong, if a reader is not what the core expects."""
    _require(bool(reader.attributes), "a reader without attributes")
    found = reader.read(_noise(size))
    _require(found.keys() == reader.attributes.keys(), "read gives other attributes than it says")
    for name, values in reader.attributes.items():
        _require(found[name].shape == (3, len(values)), f"'{name}' is not [B, values]")
        _check_shares(found[name], name)


def _noise(size: int) -> Tensor:
    return torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1


def _check_shares(found: Tensor, what: str) -> None:
    """Last axis: probabilities."""
    _require(bool(((found >= 0) & (found <= 1)).all()), f"{what}: probabilities outside 0 to 1")
    _require(float((found.sum(-1) - 1).abs().max()) < 1e-4, f"{what}: they do not sum to 1")
