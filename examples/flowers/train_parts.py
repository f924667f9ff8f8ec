"""Makes the package's weights from nothing: ``python train_parts.py`` (a few minutes on a CPU).

The generator's are random numbers. The three that look at flowers learn from what it draws, where
everything about a picture is known: each from its own pictures, so that the reader can judge what
the text-image model taught.
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from sat3d_flowers import generator, seeing
from sat3d_flowers.drawing import CENTRE_COLOURS, SIZES, draw, shares
from torch import Tensor, nn

from sat3d.descriptors import load_pack
from sat3d.qmm import pack_words
from sat3d.weights import save_weights

HERE = Path(__file__).parent / "sat3d_flowers"
PACK = load_pack(HERE / "flowers.yaml")
CLIP = HERE / "sat3d-flowers.json"
GOES_WITH = {
    "clip": "sat3d-flowers",
    "segmenter": "flowers",
    "descriptors": "flowers",
    "reader": "flowers",
}
GROUPS = ("petal_color", "petal_shape", "centre_color", "centre_size")
"""What the groups of the pack ask about, in their order."""
# A measurement that is sure of itself gives no gradient: targets stay soft, the scale small.
SMOOTHING, MOST_SCALE = 0.1, 20.0

Batch = tuple[Tensor, Tensor, dict[str, Tensor]]
"""Images, covers and numbers, as drawn."""


def batches(count: int, size: int, seed: int) -> Iterator[Batch]:
    """Flowers as the generator draws them, with a little noise on the pixels."""
    source = torch.Generator().manual_seed(seed)
    for _ in range(count):
        numbers = {name: torch.randn(size, n, generator=source) for name, n in SIZES.items()}
        image, cover = draw(numbers, 64)
        yield image + 0.02 * torch.randn(image.shape, generator=source), cover, numbers


def fit(
    network: nn.Module, loss: Callable[[Batch], Tensor], steps: int, size: int, seed: int
) -> None:
    """Adam with one cycle of the learning rate."""
    optimiser = torch.optim.AdamW(network.parameters(), 3e-3, weight_decay=1e-4)
    plan = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, steps)
    for k, batch in enumerate(batches(steps, size, seed)):
        optimiser.zero_grad()
        value = loss(batch)
        value.backward()
        optimiser.step()
        plan.step()
        if k % 100 == 0 or k == steps - 1:
            sys.stdout.write(f"step {k} of {steps}: loss {value.item():.4f}\n")


def write(name: str, tensors: dict[str, Tensor], kind: str, **more: Any) -> None:
    """Save networks in half precision, and the generator, whose numbers must fit, in full."""
    if kind != "generator":
        tensors = {k: v.half() if v.is_floating_point() else v for k, v in tensors.items()}
    header = {"architecture": "flowers", "kind": kind, "licence": "Apache-2.0", "seed": 0, **more}
    save_weights(HERE / "weights" / f"{name}.safetensors", tensors, header)
    sys.stdout.write(f"{name}: {more}\n")


def train_segmenter(steps: int) -> None:
    """Labels of the pixels; the largest cover is right."""
    network = seeing.segmenting()

    def loss(batch: Batch) -> Tensor:
        return F.cross_entropy(network(batch[0]), batch[1].argmax(dim=1))

    fit(network, loss, steps, 16, seed=1)
    with torch.no_grad():
        image, cover, _ = next(batches(1, 200, seed=101))
        right = (network(image).argmax(1) == cover.argmax(1)).float().mean().item()
    write("segmenter", network.state_dict(), "segmenter", figures={"right_pixels": round(right, 4)})


def values(numbers: dict[str, Tensor]) -> dict[str, Tensor]:
    """The true value's number of each attribute of the reader: {attribute: [B]}."""
    best = {name: numbers[name].argmax(dim=1) for name in GROUPS}
    centre = best["centre_size"] * len(CENTRE_COLOURS) + best["centre_color"]
    return {
        "petal_color": best["petal_color"],
        "petal_shape": best["petal_shape"],
        "centre": centre,
    }


def train_reader(steps: int) -> None:
    """Hard labels: the value of which most is drawn."""
    network = seeing.reading()
    sizes = [len(x) for x in seeing.READS.values()]

    def loss(batch: Batch) -> Tensor:
        pieces = zip(network(batch[0]).split(sizes, 1), values(batch[2]).values(), strict=True)
        return torch.stack([F.cross_entropy(logits, truth) for logits, truth in pieces]).sum()

    fit(network, loss, steps, 64, seed=2)
    with torch.no_grad():
        image, _, numbers = next(batches(1, 1000, seed=102))
        pieces = zip(network(image).split(sizes, 1), values(numbers).items(), strict=True)
        right = {k: round((x.argmax(1) == t).float().mean().item(), 4) for x, (k, t) in pieces}
    write("reader", network.state_dict(), "reader", figures={"right": right})


def train_text_image(steps: int) -> None:
    """An open_clip model that answers the pack's questions as softly as the drawing mixes."""
    if CLIP.stem not in open_clip.list_models():
        open_clip.add_model_config(CLIP)
    model: Any = open_clip.create_model(CLIP.stem)
    tuned = open_clip.get_model_preprocess_cfg(model)
    mean, std = (torch.tensor(tuned[x]).view(3, 1, 1) for x in ("mean", "std"))
    phrases = [[PACK.prompt(p) for p in g.phrases] for a in PACK.attributes for g in a.groups]
    tokens = open_clip.get_tokenizer(CLIP.stem)([p for group in phrases for p in group])
    sizes = [len(x) for x in phrases]

    def logits(image: Tensor) -> tuple[Tensor, ...]:
        small = F.interpolate(image, tuned["size"], mode="bicubic", antialias=True)
        seen = model.encode_image((small * 0.5 + 0.5 - mean) / std, normalize=True)
        text = model.encode_text(tokens, normalize=True)
        scale = model.logit_scale.exp().clamp(max=MOST_SCALE)
        scores: Tensor = scale * seen @ text.T
        return tuple(scores.split(sizes, dim=1))

    def loss(batch: Batch) -> Tensor:
        total = torch.zeros(())
        for name, scores in zip(GROUPS, logits(batch[0]), strict=True):
            share = shares(batch[2][name])
            target = (1 - SMOOTHING) * share + SMOOTHING / share.shape[1]
            total = total + F.cross_entropy(scores, target)
        return total

    fit(model, loss, steps, 64, seed=3)
    with torch.no_grad():
        model.logit_scale.clamp_(max=torch.tensor(MOST_SCALE).log())
        image, _, numbers = next(batches(1, 1000, seed=103))
        found = dict(zip(GROUPS, logits(image), strict=True))
    right = {
        k: round((x.argmax(1) == numbers[k].argmax(1)).float().mean().item(), 4)
        for k, x in found.items()
    }
    state = pack_words(model.state_dict(), tokens.unique())
    write("sat3d-flowers", state, "clip", figures={"right": right})


def main() -> None:
    """All four files; ``python train_parts.py 0.1`` makes a tenth of the steps."""
    torch.manual_seed(0)
    share = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0
    write("flowers", generator.make_weights(seed=0), "generator", goes_with=GOES_WITH)
    train_segmenter(int(500 * share))
    train_reader(int(1000 * share))
    train_text_image(int(1500 * share))


if __name__ == "__main__":
    main()
