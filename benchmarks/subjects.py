"""What is measured: a generator with all that trains masks on it, at full size, bundled or tiny."""

from collections.abc import Callable
from dataclasses import dataclass

import open_clip
import torch
from sat3d_plugins.generators.eg3d.generator import CameraRange, Draft, EG3DGenerator
from sat3d_plugins.generators.eg3d.networks import EG3DConfig, TriplaneGenerator
from sat3d_plugins.generators.eg3d.volume import VolumeOptions
from sat3d_plugins.segmenters.bisenet.network import BiSeNet
from sat3d_plugins.segmenters.bisenet.segmenter import LABELS, BiSeNetSegmenter

from sat3d.descriptors import DescriptorPack
from sat3d.interfaces import Generator, Segmenter, WeightsCard
from sat3d.qmm import QMM
from sat3d.registry import discover, load_generator, load_pack, load_segmenter

_TINY = EG3DConfig(
    z_dim=16,
    w_dim=16,
    plane_resolution=16,
    neural_resolution=16,
    channel_base=256,
    channel_max=16,
    superresolution="2X",
    volume=VolumeOptions(depth_resolution=4, depth_resolution_importance=4),
)


@dataclass(frozen=True)
class Subject:
    """Everything that a training run is given but its settings."""

    name: str
    what: str
    """In words, for the table."""
    generator: EG3DGenerator
    pack: DescriptorPack
    qmm: QMM
    segmenter: Segmenter

    @property
    def parts(self) -> tuple[Generator, DescriptorPack, QMM, Segmenter]:
        """As :func:`sat3d.train` takes them."""
        return self.generator, self.pack, self.qmm, self.segmenter


def full(device: torch.device) -> Subject:
    """The published FFHQ 512 shapes with random weights, ViT-B-32 and a full-width BiSeNet."""
    torch.manual_seed(0)
    pack = _free_pack()
    generator = _random_eg3d(EG3DConfig(), Draft(), device)
    segmenter = BiSeNetSegmenter(BiSeNet(len(LABELS), 64), 512, _card("bisenet-random"))
    model = open_clip.create_model("ViT-B-32", pretrained=None, device=device)
    size, mean, std = (224, 224), open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    qmm = QMM(model, tokenizer, size, mean, std, pack, {"name": "ViT-B-32, random"})
    what = "EG3D 512, ViT-B-32, BiSeNet 512; random weights"
    return Subject("eg3d-512", what, generator, pack, qmm, segmenter.to(device))


def avatars(device: torch.device) -> Subject:
    """The bundled weights, as ``sat3d train --generator eg3d`` takes them."""
    catalogue = discover()
    generator = load_generator("eg3d", None, device, catalogue)
    assert isinstance(generator, EG3DGenerator), "the bundled plugin is the one of this name"
    goes = generator.card.goes_with
    pack = load_pack(goes["descriptors"], catalogue)
    qmm = QMM.load(pack, goes["clip"], goes.get("clip_pretrained"), device, catalogue)
    outline = goes["segmenter"], goes.get("segmenter_weights")
    segmenter = load_segmenter(*outline, device, catalogue)
    return Subject("avatars", "the bundled avatars 128", generator, pack, qmm, segmenter)


def tiny(device: torch.device) -> Subject:
    """Random weights of toy shapes: shows that the measurement works, and nothing else."""
    torch.manual_seed(0)
    pack = _free_pack()
    draft = Draft(resolution=8, depth_resolution=4, depth_resolution_importance=4)
    generator = _random_eg3d(_TINY, draft, device)
    qmm = QMM.load(pack, "sat3d-avatars", None, device)
    segmenter = BiSeNetSegmenter(BiSeNet(len(LABELS), 4), 32, _card("bisenet-tiny"))
    return Subject("tiny", "toy shapes", generator, pack, qmm, segmenter.to(device))


SUBJECTS: dict[str, Callable[[torch.device], Subject]] = {
    "eg3d-512": full,
    "avatars": avatars,
    "tiny": tiny,
}


def _free_pack() -> DescriptorPack:
    """Faces without rules for the pool, which random weights would never fill."""
    pack = load_pack("faces")
    return pack.model_copy(update={"pool": type(pack.pool)()})


def _card(name: str) -> WeightsCard:
    return WeightsCard(name, "0" * 64)


def _random_eg3d(config: EG3DConfig, draft: Draft, device: torch.device) -> EG3DGenerator:
    network = TriplaneGenerator(config)
    return EG3DGenerator(network, _card("random"), CameraRange(), draft).to(device)
