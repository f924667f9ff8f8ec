"""Trains a text-image model on renders: ``python -m recipes.text_image --world avatars``.

One model may serve several worlds: ``--with cars`` after ``--world cats`` trains it on both, a
share of every batch from each. The groups of a pack only compete among themselves, so words of
another world cost their rows of the word table and nothing else; what costs is the image tower.

Contrastive, with many positives. For every question (hair colour, beard ...) the image's logits
over the answers, in random wordings, are trained by cross-entropy; captions of two or three facts
are matched with all images they are true of. Two things keep the probabilities soft, as the QMM
needs them: smoothed targets under a bounded logit scale, and blends of two images whose target is
the same blend of answers, so that a half-way edit is measured as half-way.
"""

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from sat3d_plugins import descriptors
from sat3d_plugins.clip import AVATARS
from torch import Tensor

from recipes import worlds
from recipes.captions import check, write_captions
from recipes.data import Renders, augment, shrunk, to_float
from recipes.fitting import Options, datasets, fit, forget, options
from recipes.worlds import World
from recipes.worlds.world import Question
from sat3d.descriptors import DescriptorPack, load_pack
from sat3d.qmm import QMM, pack_words
from sat3d.registry import Catalogue, Offer
from sat3d.weights import save_weights

CAPTIONS = 20_000
CAPTIONS_PER_STEP = 256
SMOOTHING = 0.18
BLENDED = 1 / 3
CAPTION_WEIGHT = 0.2
CAPTION_SCALE = 20.0
SCALE_RANGE = (5.0, 25.0)
SIZES = (128, 64, 48, 32)


def file_of(world: World) -> Path:
    """The bundled weights: avatars have a model of their own, other worlds share one."""
    name = world.goes_with["clip"]
    return AVATARS.weights.parent / f"{name}.safetensors"


def pack_of(world: World) -> DescriptorPack:
    """The world's descriptor pack."""
    return load_pack(Path(descriptors.__file__).parent / f"{world.pack}.yaml")


@dataclass(frozen=True)
class TextBank:
    """All texts as tokens, on the device."""

    answers: Tensor
    """[questions, answers, wordings, templates, length] int64, padded by repetition."""
    wordings: list[list[int]]
    """How many wordings each answer really has."""
    captions: Tensor
    """[captions, length] int64."""
    facts: Tensor
    """[captions, F] int64, -1 where nothing is said."""


def text_bank(world: World, tokenizer: Any, device: torch.device) -> TextBank:
    """Tokenise every wording in every template, once."""
    questions, templates = world.questions, world.templates
    most = max(len(q.answers) for q in questions)
    widest = max(len(words) for q in questions for words in q.answers)
    texts = []
    for question in questions:
        for a in range(most):
            words = question.answers[a % len(question.answers)]
            for k in range(widest):
                texts += [t.replace("{}", words[k % len(words)]) for t in templates]
    shape = (len(questions), most, widest, len(templates), -1)
    captions, facts = write_captions(world, CAPTIONS, seed=0)
    return TextBank(
        tokenizer(texts).view(shape).to(device),
        [[len(words) for words in q.answers] for q in questions],
        tokenizer(captions).to(device),
        torch.tensor(facts, device=device),
    )


class Trainer:
    """Draws batches of one world and computes the loss."""

    def __init__(self, model: Any, data: Renders, bank: TextBank, batch: int) -> None:
        self.model, self.data, self.bank, self.batch = model, data, bank, batch
        tuned = open_clip.get_model_preprocess_cfg(model)
        self.size = tuned["size"][0] if isinstance(tuned["size"], tuple) else tuned["size"]
        device = data.images.device
        self.mean = torch.tensor(tuned["mean"], device=device).view(3, 1, 1)
        self.std = torch.tensor(tuned["std"], device=device).view(3, 1, 1)
        answer_of = [torch.tensor(q.answer_of, device=device) for q in data.world.questions]
        columns = [data.classes(q.factor) for q in data.world.questions]
        self.truth = torch.stack([a[c] for a, c in zip(answer_of, columns, strict=True)], dim=1)

    def embed(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [-1, 1] to [B, E], as the QMM does it."""
        resized = F.interpolate(images, (self.size, self.size), mode="bicubic", antialias=True)
        inputs = (resized * 0.5 + 0.5 - self.mean) / self.std
        return self.model.encode_image(inputs, normalize=True).float()

    def __call__(self, progress: float) -> tuple[Tensor, dict[str, float | Tensor]]:
        """The loss of a fresh batch, and what to print."""
        low, high = (math.log(x) for x in SCALE_RANGE)
        with torch.no_grad():
            self.model.logit_scale.clamp_(low, high)
        rows = torch.randint(len(self.data), (self.batch,), device=self.data.images.device)
        images = to_float(self.data.images[rows])
        blended = int(self.batch * BLENDED)
        share = torch.ones(self.batch, device=images.device)
        share[:blended] = torch.rand(blended, device=images.device)
        other = rows.roll(1)
        weight = share.view(-1, 1, 1, 1)
        images = augment(weight * images + (1 - weight) * images.roll(1, 0))
        embedding = self.embed(images)
        texts, captions, facts = self._texts()
        plain = slice(blended, None)
        with torch.autocast(images.device.type, enabled=False):  # bfloat16 logits are too coarse
            answers, hits = self._answer_loss(embedding, texts, rows, other, share)
            matched = self._caption_loss(embedding[plain], captions, rows[plain], facts)
        scale = self.model.logit_scale.exp()
        return answers + CAPTION_WEIGHT * matched, {
            "answers": answers.detach(),
            "captions": matched.detach(),
            "right": hits,
            "scale": scale.detach(),
        }

    def _texts(self) -> tuple[list[Tensor], Tensor, Tensor]:
        """Embeddings of one wording per answer, of some captions, and these captions' facts.

        Half the questions are put in the pack's words and template, half the rest in its template.
        """
        bank, tokens, sizes = self.bank, [], []
        for q, counts in enumerate(bank.wordings):
            own, template = torch.rand(2).tolist()
            t = 0 if template < 0.5 else int(torch.randint(bank.answers.shape[3], ()))
            picks = [0 if own < 0.5 else int(torch.randint(n, ())) for n in counts]
            tokens += [bank.answers[q, a, k, t] for a, k in enumerate(picks)]
            sizes.append(len(counts))
        chosen = torch.randint(len(bank.captions), (CAPTIONS_PER_STEP,), device=bank.facts.device)
        every = torch.cat([torch.stack(tokens), bank.captions[chosen]])
        embedding = self.model.encode_text(every, normalize=True).float()
        answers, captions = embedding.split([len(tokens), CAPTIONS_PER_STEP])
        return list(answers.split(sizes)), captions, bank.facts[chosen]

    def _answer_loss(
        self, embedding: Tensor, texts: list[Tensor], rows: Tensor, other: Tensor, share: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy over the questions with blended, smoothed targets; mean accuracy."""
        total, hits = embedding.new_zeros(()), embedding.new_zeros(())
        scale = self.model.logit_scale.exp()
        pure = share == 1
        for q, text in enumerate(texts):
            logits = scale * embedding @ text.T
            first = F.one_hot(self.truth[rows, q], len(text)).float()
            second = F.one_hot(self.truth[other, q], len(text)).float()
            target = share[:, None] * first + (1 - share[:, None]) * second
            target = (1 - SMOOTHING) * target + SMOOTHING / len(text)
            total = total + F.cross_entropy(logits, target)
            right = (logits.argmax(1) == self.truth[rows, q]) & pure
            hits = hits + right.sum() / pure.sum()
        return total / len(texts), (hits / len(texts)).detach()

    def _caption_loss(
        self, embedding: Tensor, captions: Tensor, rows: Tensor, facts: Tensor
    ) -> Tensor:
        """InfoNCE both ways; every caption that is true of an image is a positive."""
        values = self.data.factors.classes[rows]
        fits = (facts[None] == -1) | (facts[None] == values[:, None])
        true = fits.all(-1).float()
        logits = CAPTION_SCALE * embedding @ captions.T
        loss = embedding.new_zeros(())
        for scores, mask in ((logits, true), (logits.T, true.T)):
            positives = mask.sum(1)
            target = mask / positives.clamp_min(1)[:, None]
            # Rows without a positive add nothing to the sum and are not counted.
            every = -(target * scores.log_softmax(1)).sum()
            loss = loss + every / (positives > 0).sum().clamp_min(1)
        return 0.5 * loss


def together(trainers: Sequence[Trainer]) -> Any:
    """The mean loss of several worlds' batches."""

    def loss(progress: float) -> tuple[Tensor, dict[str, float | Tensor]]:
        parts = [trainer(progress) for trainer in trainers]
        notes = {
            f"{key} {trainer.data.world.name}" if len(trainers) > 1 else key: value
            for trainer, (_, found) in zip(trainers, parts, strict=True)
            for key, value in found.items()
        }
        return torch.stack([value for value, _ in parts]).mean(), notes

    return loss


# ---------------------------------------------------------------- writing and measuring


def half(model: torch.nn.Module, banks: Sequence[TextBank]) -> dict[str, Tensor]:
    """The state dict in half precision, with the rows of only those tokens that training saw.

    These are all tokens of all wordings and captions, and the ones that begin, end and pad them.
    """
    state = {key: value.detach().cpu() for key, value in model.state_dict().items()}
    tokens = [x.flatten() for bank in banks for x in (bank.answers, bank.captions)]
    seen = torch.cat(tokens).unique().cpu()
    packed = pack_words(state, seen)
    return {k: v.half() if v.is_floating_point() else v for k, v in packed.items()}


def load_qmm(pack: DescriptorPack, weights: Path, device: torch.device) -> QMM:
    """The QMM on a weights file, by the way that users take."""
    offer = Offer(AVATARS, "clip", "sat3d", "")
    catalogue = Catalogue(clip_models={AVATARS.name: offer})
    return QMM.load(pack, AVATARS.name, str(weights), device, catalogue)


@torch.no_grad()
def measure(qmm: QMM, data: Renders, questions: Mapping[str, Question]) -> dict[str, Any]:
    """Accuracy per group at several sizes, and how soft the probabilities are.

    What another factor hides is not judged, as the pool leaves it out.
    """
    figures: dict[str, Any] = {}
    for size in SIZES:
        chunks = (shrunk(to_float(x), size) for x in data.images.split(256))
        embedding = torch.cat([qmm.encode_image(chunk) for chunk in chunks])
        groups = dict(_groups(qmm, embedding))
        for name, found in groups.items():
            question = questions[name]
            truth = torch.tensor(question.answer_of).to(found.device)[data.classes(question.factor)]
            right = (found.argmax(1) == truth)[data.shows(question.factor)].float().mean().item()
            entry = figures.setdefault(name, {})
            entry[f"accuracy_{size}"] = round(right, 4)
            if size == 128:
                entry["mean_max"] = round(found.amax(1).mean().item(), 4)
        own = [g.amax(1).mean() for name, g in groups.items() if not name.startswith("pool_")]
        figures[f"mean_max_{size}"] = round(torch.stack(own).mean().item(), 4)
    figures["worst_conditional_128"] = _conditional(qmm, data, questions)
    return figures


def _groups(qmm: QMM, embedding: Tensor) -> list[tuple[str, Tensor]]:
    """(name, probabilities [M, phrases]) of every group and pool rule."""
    names = [a.name for a in qmm.pack.attributes for _ in a.groups]
    found = list(zip(names, qmm.probabilities(embedding).split(qmm.group_sizes, 1), strict=True))
    for rule in (*qmm.pack.pool.exclude, *qmm.pack.pool.quotas):
        asked = [rule.model_copy(update={"phrase": phrase}) for phrase in rule.phrases]
        values = torch.stack([qmm.rule_probability(embedding, r) for r in asked], dim=1)
        found.append((f"pool_{rule.name}", values))
    return found


def _conditional(qmm: QMM, data: Renders, questions: Mapping[str, Question]) -> dict[str, Any]:
    """Per attribute: the lowest accuracy given any value of any other attribute."""
    embedding = torch.cat([qmm.encode_image(to_float(x)) for x in data.images.split(256)])
    bare = torch.stack([data.shows(name) for name in data.world.attributes]).all(0)
    worst: dict[str, Any] = {}
    for name, found in _groups(qmm, embedding):
        if name.startswith("pool_"):
            continue
        right = found.argmax(1) == data.classes(questions[name].factor)
        entries = []
        for factor in (a.name for a in qmm.pack.attributes if a.name != name):
            for value in range(int(data.classes(factor).max()) + 1):
                rows = bare & (data.classes(factor) == value)
                if rows.any():
                    share = right[rows].float().mean().item()
                    entries.append((round(share, 4), f"{factor} {value}"))
        worst[name] = min(entries)
    return worst


def _more(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--with", nargs="+", choices=worlds.NAMES, default=[], metavar="WORLD",
                        help="worlds that the model serves beside --world")  # fmt: skip


def main() -> None:
    """Train, write, measure through the QMM, write again with the figures."""
    summary = (__doc__ or "").splitlines()[0]
    chosen: Options = options(summary, file_of, minutes=4, batch=1024, rate=2e-3, more=_more)
    every = [chosen.world, *map(worlds.load, chosen.more["with"])]
    questions = [check(world, pack_of(world)) for world in every]
    device = torch.device(chosen.device)
    work = chosen.work.parent
    sets = [datasets(replace(chosen, world=x, work=work / x.name)) for x in every]
    torch.manual_seed(chosen.seed)
    open_clip.add_model_config(AVATARS.config)
    model = open_clip.create_model(AVATARS.config.stem, device=device)
    model.visual.to(memory_format=torch.channels_last)
    tokenizer = open_clip.get_tokenizer(AVATARS.config.stem)
    banks = [text_bank(world, tokenizer, device) for world in every]
    if chosen.compile:
        model.visual.compile()
    share = chosen.batch // len(every)
    trainers = [Trainer(model, d[0], b, share) for d, b in zip(sets, banks, strict=True)]
    took = fit(model, together(trainers), chosen, "text_image")
    tensors = half(model, banks)
    header = {
        "kind": "clip",
        "architecture": AVATARS.config.stem,
        "config": json.loads(AVATARS.config.read_text()),
        "smoothing": SMOOTHING,
        "worlds": [world.name for world in every],
        **chosen.header(took),
    }
    save_weights(chosen.out, tensors, header)
    found = {
        world.name: measure(load_qmm(pack_of(world), chosen.out, device), data[1], asked)
        for world, data, asked in zip(every, sets, questions, strict=True)
    }
    figures = found if len(every) > 1 else found[chosen.world.name]
    save_weights(chosen.out, tensors, {**header, "figures": figures})
    forget(chosen, "text_image")
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
