"""Quantitative Measurement Module (paper, section 3.2).

``D(I, group) = softmax over the group's phrases of CLIP(I, phrase)``, where a CLIP score is
logit_scale times the cosine of the embeddings. Phrases are encoded once, at construction; an
image is encoded once for all groups.
"""

import difflib
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from sat3d.descriptors import DescriptorPack, Rule
from sat3d.errors import InputError, Sat3dError, UsageError
from sat3d.registry import Catalogue, discover
from sat3d.specs import ClipSpec
from sat3d.weights import fingerprint

Tokenizer = Callable[[list[str]], Tensor]
WORDS = "token_embedding.weight"
"""The table [V, W] of a text encoder, one row per token of the vocabulary."""
IDS, ROWS = f"{WORDS}.ids", f"{WORDS}.rows"
"""What stands for the table in a file whose training saw few tokens: see :func:`pack_words`."""
_log = logging.getLogger(__name__)


class QMM:
    """Scores images against the phrase groups of a pack. Frozen: gradients reach images only."""

    def __init__(
        self,
        model: torch.nn.Module,
        tokenizer: Tokenizer,
        image_size: tuple[int, int],
        mean: Sequence[float],
        std: Sequence[float],
        pack: DescriptorPack,
        identity: Mapping[str, str],
        softness: float = 1.0,
    ) -> None:
        """Encode the pack's phrases with an open_clip model, whose weights are frozen.

        ``softness`` divides the logits: above 1 the probabilities become less sure, which
        leaves more gradient at the source.
        """
        if not softness > 0:
            raise UsageError(f"softness is {softness}; it must be above 0. The default is 1.")
        self.pack = pack
        self.identity = dict(identity)
        self.image_size = image_size
        self._model = cast(Any, model.eval().requires_grad_(False))
        self._tokenizer = tokenizer
        self._unseen = _unseen(model)
        device = next(model.parameters()).device
        self._mean = torch.tensor(mean, device=device).view(3, 1, 1)
        self._std = torch.tensor(std, device=device).view(3, 1, 1)
        self._scale = self._model.logit_scale.detach().exp().float() / softness
        groups = [(row, g) for row, a in enumerate(pack.attributes) for g in a.groups]
        self.group_sizes = tuple(len(g.phrases) for _, g in groups)
        self.attribute_of_phrase = torch.tensor(
            [row for row, g in groups for _ in g.phrases], device=device
        )
        """[D] int64: the matrix row of the attribute that a phrase describes."""
        self.phrases = self.encode_phrases([p for _, g in groups for p in g.phrases])
        """[D, E]: the phrases' embeddings, of length 1."""
        rules = (*pack.pool.exclude, *pack.pool.quotas)
        self._rules = {rule.phrases: self.encode_phrases(rule.phrases) for rule in rules}

    @classmethod
    def load(
        cls,
        pack: DescriptorPack,
        clip: str,
        pretrained: str | None,
        device: torch.device,
        catalogue: Catalogue | None = None,
        softness: float = 1.0,
    ) -> "QMM":
        """Build from a text-image model of a plugin or an architecture of open_clip.

        ``pretrained`` is a tag of open_clip or a path to weights; a plugin's model brings its
        own. ``catalogue`` None asks the plugins. Raises UsageError for unknown names and for
        weights whose activation is not the architecture's, InputError for files that do not fit,
        Sat3dError if a download fails.
        """
        import open_clip

        offers = (catalogue or discover()).clip_models
        specs = {name: offer.spec for name, offer in offers.items()}
        name, weights = _resolve(clip, pretrained, specs)
        model = _create(name, weights, device)
        tuned = open_clip.get_model_preprocess_cfg(model)
        side = tuned["size"]
        return cls(
            model,
            open_clip.get_tokenizer(name),
            (side, side) if isinstance(side, int) else (side[0], side[1]),
            tuned["mean"],
            tuned["std"],
            pack,
            {
                "name": clip,
                # A path says nothing on another machine; the fingerprint says it all.
                "pretrained": Path(weights).name if weights else "",
                "fingerprint": fingerprint(model.state_dict()),
            },
            softness,
        )

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.phrases.device

    @torch.no_grad()
    def encode_phrases(self, phrases: Sequence[str]) -> Tensor:
        """Phrases in the pack's template to embeddings [D, E] float32 of length 1.

        Words of which the model's training saw no token are named in a warning of ``logging``.
        """
        prompts = [self.pack.prompt(p) for p in phrases]
        tokens = self._tokenizer(prompts).to(self._mean.device)
        self._warn(prompts, tokens)
        embedding: Tensor = self._model.encode_text(tokens, normalize=True)
        return embedding.float()

    def _warn(self, prompts: list[str], tokens: Tensor) -> None:
        """Name the words that mean nothing to the model; says nothing where it knows them all."""
        if self._unseen is None or not self._unseen[tokens].any():
            return
        words = sorted({word for prompt in prompts for word in prompt.split()})
        unseen = self._unseen[self._tokenizer(words).to(tokens.device)].any(dim=1).tolist()
        named = [f"'{word}'" for word, new in zip(words, unseen, strict=True) if new]
        _log.warning(
            "text-image model '%s' was never trained on %s: phrases with these words are not "
            "measured reliably. Use other words or another --clip.",
            self.identity.get("name", ""),
            ", ".join(named),
        )

    def encode_image(self, image: Tensor) -> Tensor:
        """Image [B, 3, H, W] in [-1, 1], any size, to [B, E] of length 1; differentiable."""
        if image.shape[2:] != self.image_size:
            image = F.interpolate(
                image, self.image_size, mode="bicubic", align_corners=False, antialias=True
            )
        embedding: Tensor = self._model.encode_image(
            (image * 0.5 + 0.5 - self._mean) / self._std, normalize=True
        )
        return embedding.float()

    def probabilities(self, embedding: Tensor) -> Tensor:
        """D(I, group) of all groups side by side: [B, E] to [B, D], each group sums to 1."""
        logits = self._scale * embedding @ self.phrases.T
        groups = logits.split(self.group_sizes, dim=1)
        return torch.cat([group.softmax(1) for group in groups], dim=1)

    def measure(self, image: Tensor) -> Tensor:
        """Image [B, 3, H, W] in [-1, 1] to [B, D]; differentiable in the image."""
        return self.probabilities(self.encode_image(image))

    def rule_probability(self, embedding: Tensor, rule: Rule) -> Tensor:
        """Probability [B] of ``rule.phrase`` among ``rule.phrases``, from [B, E].

        The rule must be one of the pack's: only those phrases were encoded.
        """
        logits = self._scale * embedding @ self._rules[rule.phrases].T
        probability: Tensor = logits.softmax(1)[:, rule.phrases.index(rule.phrase)]
        return probability

    @torch.no_grad()
    def read(self, image: Tensor) -> dict[str, dict[str, dict[str, float]]]:
        """One image [1, 3, H, W] as {attribute: {group: {phrase: probability}}}, for people."""
        values = iter(self.measure(image)[0].tolist())
        return {
            attribute.name: {
                group.name: {phrase: next(values) for phrase in group.phrases}
                for group in attribute.groups
            }
            for attribute in self.pack.attributes
        }

    @torch.no_grad()
    def confidence(self, image: Tensor) -> Tensor:
        """Largest probability of each group, averaged over images [B, 3, H, W]: [groups].

        Near 1 means saturated: the losses would have no gradient at the source.
        """
        groups = self.measure(image).split(self.group_sizes, dim=1)
        return torch.stack([group.amax(1).mean() for group in groups])


def _resolve(
    clip: str, pretrained: str | None, specs: Mapping[str, ClipSpec]
) -> tuple[str, str | None]:
    """(architecture as open_clip knows it, tag or path of weights), checked."""
    if clip in specs:
        spec = specs[clip]
        _register(spec)
        weights = str(spec.weights) if pretrained is None else pretrained
        if not Path(weights).is_file():
            raise UsageError(
                f"text-image model '{clip}' has no weights '{weights}'. Give --clip-pretrained "
                "the path of a file, or leave it out."
            )
        return spec.config.stem, weights
    if clip.startswith(("local-dir:", "hf-hub:")):
        return clip, None
    _check_architecture(clip, specs)
    _check_pretrained(clip, pretrained)
    return clip, pretrained


def _register(spec: ClipSpec) -> None:
    """Make the configuration known to open_clip, once."""
    import json

    import open_clip

    try:
        config = json.loads(spec.config.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"text-image model '{spec.name}': cannot read '{spec.config}': {error}. "
            "Install its plugin again."
        ) from None
    if open_clip.get_model_config(spec.config.stem) != config:
        open_clip.add_model_config(spec.config)


def _check_architecture(clip: str, specs: Mapping[str, ClipSpec]) -> None:
    import open_clip

    models: list[str] = open_clip.list_models()
    if clip in models:
        return
    known = {n.casefold(): n for n in (*models, *specs)}
    near = difflib.get_close_matches(clip.casefold(), known, n=1)
    hint = f" Did you mean '{known[near[0]]}'?" if near else ""
    own = "".join(f"{name}, " for name in sorted(specs))
    raise UsageError(
        f"unknown text-image model '{clip}'.{hint} Known: {own}and the {len(models)} "
        "architectures of open_clip, such as ViT-B-32-quickgelu."
    )


def _check_pretrained(clip: str, pretrained: str | None) -> None:
    """An architecture of open_clip needs a tag, whose activation must be its own, or a file."""
    import open_clip

    if pretrained is not None and Path(pretrained).is_file():
        return
    tags: list[str] = open_clip.list_pretrained_tags_by_model(clip)
    tag = open_clip.get_pretrained_cfg(clip, pretrained) if pretrained else {}
    if not tag:
        near = difflib.get_close_matches(pretrained or "", tags, n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        said = f"does not know weights '{pretrained}'" if pretrained else "needs weights"
        raise UsageError(
            f"text-image model '{clip}' {said}.{hint} Give --clip-pretrained a path or one of: "
            f"{', '.join(tags) or 'none'}."
        )
    quick = bool((open_clip.get_model_config(clip) or {}).get("quick_gelu", False))
    if bool(tag.get("quick_gelu", False)) != quick:
        # open_clip only warns, and its scores are then wrong.
        other = f"{clip}-quickgelu".replace("-quickgelu-quickgelu", "")
        remedy = f"--clip {other}" if other in open_clip.list_models() else "other weights"
        raise UsageError(
            f"weights '{pretrained}' were trained {'without' if quick else 'with'} QuickGELU, "
            f"but architecture '{clip}' computes {'with' if quick else 'without'} it. "
            f"Use {remedy}."
        )


def _create(name: str, weights: str | None, device: torch.device) -> torch.nn.Module:
    import open_clip

    is_file = weights is not None and Path(weights).is_file()
    try:
        with _plain(name, weights) as file:
            model: torch.nn.Module = open_clip.create_model(
                name, pretrained=file, device=device, require_pretrained=True
            )
    except Exception as error:  # open_clip raises whatever its loaders and downloaders raise
        reason = " ".join(str(error).split())[:300]
        if is_file or name.startswith("local-dir:"):
            where = weights if is_file else name
            raise InputError(
                f"'{where}' does not fit text-image model '{name}': {reason}. Check both names."
            ) from error
        raise Sat3dError(
            f"cannot get text-image model '{name}' ({weights or 'hub'}): {reason}. "
            "Connect to the network, or give --clip-pretrained the path of a downloaded file."
        ) from error
    return model


# ---------------------------------------------------------------- files with few words


def pack_words(state: Mapping[str, Tensor], seen: Tensor) -> dict[str, Tensor]:
    """A state dict whose table of words is only the rows of the tokens ``seen`` [K], sorted.

    The tensor WORDS [V, W] becomes IDS [K] int32 and ROWS [K, W]. Of 49408 tokens a text encoder
    of a narrow domain may have seen a hundred; the other rows are what it started from.
    """
    rest = {key: value for key, value in state.items() if key != WORDS}
    return rest | {IDS: seen.int(), ROWS: state[WORDS][seen]}


def unpack_words(tensors: Mapping[str, Tensor], vocabulary: int) -> dict[str, Tensor]:
    """The inverse of :func:`pack_words`: a state dict with a full table [vocabulary, W].

    A token never seen gets a zero row: it adds nothing to its position's embedding, while the
    random row it started from would move a phrase in a direction without meaning. A zero row is
    therefore also how unseen tokens are known. Raises InputError for IDS and ROWS that do not fit.
    """
    ids, rows = tensors[IDS], tensors[ROWS]
    if ids.ndim != 1 or rows.ndim != 2 or len(ids) != len(rows) or ids.is_floating_point():
        found = f"{ids.dtype} {tuple(ids.shape)} and {tuple(rows.shape)}"
        raise InputError(f"'{IDS}' and '{ROWS}' are {found}, not K integers and K rows.")
    ids = ids.long()
    if len(ids) and not (ids[0] >= 0 and (ids.diff() > 0).all() and ids[-1] < vocabulary):
        raise InputError(f"'{IDS}' are not rising numbers from 0 to {vocabulary - 1}.")
    table = rows.new_zeros(vocabulary, rows.shape[1])
    table[ids] = rows
    return {k: v for k, v in tensors.items() if k not in (IDS, ROWS)} | {WORDS: table}


@contextmanager
def _plain(name: str, weights: str | None) -> Iterator[str | None]:
    """The weights as open_clip reads them, which is only from files: packed words unpacked."""
    if weights is None or not _is_packed(Path(weights)):
        yield weights
        return
    import open_clip

    text = (open_clip.get_model_config(name) or {}).get("text_cfg", {})
    tensors = unpack_words(load_file(weights), text.get("vocab_size", 49408))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / Path(weights).name
        save_file(tensors, file)
        yield str(file)


def _is_packed(path: Path) -> bool:
    """Whether it is a .safetensors with packed words; anything unreadable is left to open_clip."""
    if path.suffix != ".safetensors" or not path.is_file():
        return False
    try:
        with safe_open(str(path), framework="pt") as file:
            return {IDS, ROWS} <= set(file.keys())
    except (SafetensorError, OSError):
        return False


def _unseen(model: torch.nn.Module) -> Tensor | None:
    """[V] bool, true for tokens whose row of the table is zero; None where there is no such."""
    tables = (p for n, p in model.named_parameters() if f".{n}".endswith(f".{WORDS}"))
    for table in tables:
        unseen: Tensor = ~table.detach().bool().any(dim=1)
        return unseen if unseen.any() else None
    return None
