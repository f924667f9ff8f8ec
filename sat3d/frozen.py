"""The frozen networks as training runs them: in which precision, and how they are launched.

A generator draws, the measurement and the segmenter look. None of them learns, and in training
their inputs have the same shapes in every step. So a CUDA device can be given all the work of a
step as one graph, without a launch from the host for each of a thousand small kernels. That is a
setting; the plain way is always there.
"""

import gc
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from sat3d.interfaces import Generator, Segmenter
from sat3d.precision import Precision, shortened
from sat3d.regions import RegionTable, alterable
from sat3d.settings import TrainSettings

Work = Callable[..., tuple[Tensor, ...]]
Capture = Callable[[Work, tuple[Tensor, ...]], Work]
_log = logging.getLogger(__name__)


class Looks(Protocol):
    """What is asked of a measurement here: see :class:`sat3d.pool.Measure`."""

    def encode_image(self, image: Tensor) -> Tensor:
        """[B, 3, H, W] in [-1, 1] to [B, E]."""

    def probabilities(self, embedding: Tensor) -> Tensor:
        """[B, E] to [B, D]."""


class Frozen:
    """The networks of one run. What :meth:`see`, :meth:`sight` and :meth:`outline` give back may
    be overwritten by the next call of the same method: use it, or copy it, before."""

    def __init__(
        self,
        generator: Generator,
        qmm: Looks,
        segmenter: Segmenter | None,
        table: RegionTable | None,
        settings: TrainSettings,
    ) -> None:
        # Bound methods of another object: a cycle through self would let Python destroy a graph
        # whenever it collects cycles, which must not be while another one is captured.
        plain = Networks(
            generator,
            qmm,
            segmenter,
            table,
            settings.precision,
            settings.draft,
            settings.checkpointing,
            settings.chunk,
            settings.compare_size,
        )
        capture = _captured if settings.graphs and generator.device.type == "cuda" else None
        self._sight = Launcher(plain.draw, "drawing the pool", capture)
        self._see = Launcher(plain.measure, "steps", capture, gradient=True)
        self._outline = Launcher(plain.outline, "segmentation", capture)

    def sight(self, styles: Tensor, camera: Tensor | None) -> tuple[Tensor, Tensor]:
        """Styles [B, N] and cameras [B, 25] to images and embeddings [B, E], without gradient."""
        with torch.no_grad():
            image, embedding = self._sight(*_known(styles, camera))
        return image, embedding

    def see(self, styles: Tensor, camera: Tensor | None) -> tuple[Tensor, Tensor]:
        """Styles [B, N] and cameras [B, 25] to images and probabilities [B, D].

        Differentiable in the styles; ask for the gradient before the next call.
        """
        image, found = self._see(*_known(styles, camera))
        return image, found

    def outline(self, image: Tensor) -> Tensor:
        """Images [B, 3, H, W] to alterable regions [B, A, h, w] bool, without gradient."""
        with torch.no_grad():
            (masks,) = self._outline(image.detach())
        return masks


@dataclass(frozen=True)
class Networks:
    """The networks in the run's precision, launched the plain way. Every result is a tuple, as
    CUDA graphs want it."""

    generator: Generator
    qmm: Looks
    segmenter: Segmenter | None
    table: RegionTable | None
    precision: Precision = "float32"
    draft: bool = False
    checkpointing: bool = False
    chunk: int = 1
    compare_size: int | None = None

    def draw(self, styles: Tensor, camera: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Styles [B, N] and cameras [B, 25] to images and embeddings [B, E], both float32."""
        with shortened(styles.device, self.precision):
            image = self.generator.render(styles, camera, draft=self.draft).image.float()
            embedding = self.qmm.encode_image(image).float()
        return image, embedding

    def measure(self, styles: Tensor, camera: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Styles [B, N] and cameras [B, 25] to images and probabilities [B, D]."""
        again = self.checkpointing and torch.is_grad_enabled()
        image, embedding = (self._draw_again if again else self.draw)(styles, camera)
        return image, self.qmm.probabilities(embedding)

    def _draw_again(self, styles: Tensor, camera: Tensor | None) -> tuple[Tensor, Tensor]:
        """As ``draw``, but keeps no features: the gradient draws chunk after chunk anew."""
        pieces = styles.split(self.chunk)
        cameras = [None] * len(pieces) if camera is None else camera.split(self.chunk)
        drawn = [
            # Drawing is a pure function, so there is no random state to keep.
            checkpoint(self.draw, *pair, use_reentrant=False, preserve_rng_state=False)
            for pair in zip(pieces, cameras, strict=True)
        ]
        images, embeddings = zip(*drawn, strict=True)
        return torch.cat(images), torch.cat(embeddings)

    def outline(self, image: Tensor) -> tuple[Tensor]:
        """Images [B, 3, H, W] to alterable regions [B, A, h, w] bool."""
        assert self.segmenter is not None, "regions come from a segmenter"
        assert self.table is not None, "a segmenter comes with the pack's regions"
        with shortened(image.device, self.precision):
            labels = self.segmenter.segment(image).float()
        return (alterable(labels, self.table, self.compare_size),)


class Launcher:
    """A function of tensors. The first call fixes the shapes for which it is made fast; calls of
    other shapes, and all if that fails, run the function as it is."""

    def __init__(
        self,
        work: Work,
        name: str,
        capture: Capture | None,
        gradient: bool = False,
    ) -> None:
        """``capture`` makes the function fast for tensors like the given; None leaves it as it is.
        ``gradient``: of the first tensor, and only a call that asks for it is the first."""
        self._work, self._name, self._gradient = work, name, gradient
        self._capture = capture
        self._fast: Work | None = None
        self._shapes: list[torch.Size] = []

    def __call__(self, *given: Tensor) -> tuple[Tensor, ...]:
        """The function's result, in memory that the next call may overwrite."""
        asked = torch.is_grad_enabled() and given[0].requires_grad
        if self._capture is not None and asked == self._gradient:
            self._prepare(self._capture, given)
        if self._fast is None or [x.shape for x in given] != self._shapes:
            return self._work(*given)
        return self._fast(*given)

    def _prepare(self, capture: Capture, given: tuple[Tensor, ...]) -> None:
        """Capture, if that works; it is tried once."""
        self._capture = None
        try:
            self._fast, self._shapes = capture(self._work, given), [x.shape for x in given]
        except Exception as error:
            # Libraries and drivers raise whatever they like; the plain way remains.
            line = " ".join(str(error).split())[:200] or type(error).__name__
            _log.warning(
                "%s: cannot be captured as a CUDA graph (%s); slower without.", self._name, line
            )


def _captured(work: Work, given: tuple[Tensor, ...]) -> Work:
    """``work`` as a CUDA graph for tensors like ``given``, with its gradient where one is asked.

    Raises RuntimeError if it cannot be captured, e.g. because the host would have to wait for
    the device in the middle.
    """
    device, samples = given[0].device, _like(given)
    gc.collect()  # what it would destroy in the middle of the capture
    before = torch.cuda.current_stream(device)
    try:
        with torch.cuda.device(device):
            # Once for what libraries prepare at first use, then with an error at any waiting:
            # a failed rehearsal leaves the device in order, a failed capture may not.
            _rehearse(work, samples)
            with _no_waiting():
                _rehearse(work, samples)
            if any(x.requires_grad for x in samples):
                with warnings.catch_warnings():
                    # True, and harmless: the samples' own gradients are never read.
                    warnings.filterwarnings("ignore", message="The AccumulateGrad node's stream")
                    return cast(Work, torch.cuda.make_graphed_callables(work, samples))
            return _captured_forward(work, samples)
    except Exception:
        # A capture that breaks off leaves its own stream as the current one.
        torch.cuda.set_stream(before)
        raise


def _captured_forward(work: Work, samples: tuple[Tensor, ...]) -> Work:
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            work(*samples)
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = work(*samples)

    def replay(*given: Tensor) -> tuple[Tensor, ...]:
        for sample, value in zip(samples, given, strict=True):
            sample.copy_(value)
        with torch.cuda.device(samples[0].device):
            graph.replay()
        return found

    return replay


def _like(given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Tensors of their own with the same values, that ask for a gradient where these do."""
    asked = torch.is_grad_enabled()
    return tuple(x.detach().clone().requires_grad_(asked and x.requires_grad) for x in given)


def _rehearse(work: Work, samples: tuple[Tensor, ...]) -> None:
    """Run forth, and back where a gradient is asked for."""
    found = work(*samples)
    wanted = [x for x in samples if x.requires_grad]
    outputs = [x for x in found if x.requires_grad]
    if wanted and outputs:
        torch.autograd.grad(outputs, wanted, [torch.zeros_like(x) for x in outputs])


class _no_waiting:  # noqa: N801  # used as a function
    """Inside this, an operation that makes the host wait for the CUDA device is an error."""

    def __enter__(self) -> None:
        self._before = torch.cuda.get_sync_debug_mode()
        self._set("error")

    def __exit__(self, *_: object) -> None:
        self._set(self._before)

    @staticmethod
    def _set(mode: int | str) -> None:
        with warnings.catch_warnings():
            # It tells on every use that it is a prototype.
            warnings.simplefilter("ignore")
            torch.cuda.set_sync_debug_mode(mode)


def _known(styles: Tensor, camera: Tensor | None) -> tuple[Tensor, ...]:
    return (styles,) if camera is None else (styles, camera)
