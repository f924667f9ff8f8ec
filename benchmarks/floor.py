"""How much arithmetic each part and the whole step takes: counted while it runs, not guessed."""

from collections.abc import Callable

import torch
from sat3d_plugins.generators.eg3d.networks import feature_image, uniform_draws
from torch import Tensor

from benchmarks.clock import flops
from benchmarks.plain import PlainLoop
from benchmarks.subjects import Subject
from sat3d.losses import total_loss
from sat3d.objective import Setup, measure_edit
from sat3d.pool import draw_pairs
from sat3d.settings import TrainSettings


def count_parts(subject: Subject) -> dict[str, int]:
    """FLOPs of one image in each part: forward, and with the backward pass where one is needed."""
    generator, size = subject.generator, subject.generator.resolution
    styles = generator.styles(generator.map(generator.sample_latents(1, 0)))
    camera = generator.orbit(0.0, 0.0)
    image = torch.zeros(1, 3, size, size, device=generator.device)
    return {
        **_inside(subject, styles, camera),
        "generator": flops(lambda: generator.render(styles, camera)),
        "generator and back": _back(lambda x: generator.render(x, camera).image, styles),
        "generator, draft": flops(lambda: generator.render(styles, camera, draft=True)),
        "generator, draft and back": _back(
            lambda x: generator.render(x, camera, draft=True).image, styles
        ),
        "text-image model": flops(lambda: subject.qmm.measure(image)),
        "text-image model and back": _back(subject.qmm.measure, image),
        "segmenter": flops(lambda: subject.segmenter.segment(image)),
    }


def _back(work: Callable[[Tensor], Tensor], given: Tensor) -> int:
    """FLOPs forward, and back to the input; weights are frozen."""
    given = given.detach().requires_grad_()
    return flops(lambda: work(given).sum().backward())


def _inside(subject: Subject, styles: Tensor, camera: Tensor) -> dict[str, int]:
    """The generator's own parts, forward."""
    network = subject.generator.network
    options, side = network.config.volume, network.config.neural_resolution
    coarse, fine = uniform_draws(options, side, None, styles)
    with torch.no_grad():
        planes = network.planes(styles)
        volume = network.volume(planes, camera, side, options, coarse, fine)
        feature = feature_image(volume, side)
        return {
            "backbone": flops(lambda: network.planes(styles)),
            "rendering": flops(lambda: network.volume(planes, camera, side, options, coarse, fine)),
            "super-resolution": flops(lambda: network.superresolve(feature, styles)),
        }


def count_plain(loop: PlainLoop) -> int:
    """FLOPs of one sample of the straightforward loop."""
    return flops(loop.step)


def count_engine(setup: Setup, settings: TrainSettings) -> float:
    """FLOPs of one sample of the engine's step, as the settings make it run."""
    rows = len(setup.pack.attributes) + 1
    shape = (rows, setup.generator.layout.editable_channels)
    logits = torch.zeros(shape, device=setup.generator.device, requires_grad=True)
    pairs = draw_pairs(
        setup.pool.readings,
        setup.owner_cpu,
        torch.arange(len(setup.pool)),
        settings.batch,
        settings.targets,
        settings.min_gap,
        torch.Generator().manual_seed(0),
    )

    def step() -> None:
        parts, _, _ = measure_edit(setup, logits, pairs)
        total_loss(parts, settings.weights).backward()

    return flops(step) / settings.batch
