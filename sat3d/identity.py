"""What a run is made of, as plain data."""

import json
from typing import Any

from sat3d.descriptors import DescriptorPack
from sat3d.interfaces import Generator, Segmenter
from sat3d.pool import Measure
from sat3d.settings import TrainSettings


def identity_of(
    generator: Generator,
    pack: DescriptorPack,
    qmm: Measure,
    segmenter: Segmenter | None,
    settings: TrainSettings,
) -> dict[str, Any]:
    """All that the matrix depends on, as plain data: the core of both files' headers."""
    card, seen = generator.card, None
    if segmenter is not None:
        seen = {"name": segmenter.name, "fingerprint": segmenter.card.fingerprint}
    identity = {
        "generator": {
            "name": generator.name,
            "weights": card.name,
            "fingerprint": card.fingerprint,
            "layout": generator.layout.digest,
        },
        "pack": pack.model_dump(mode="json"),
        "clip": dict(qmm.identity),
        "segmenter": seen,
        "settings": settings.model_dump(mode="json"),
        "seed": settings.seed,
    }
    # The round trip makes it equal to what a header gives back.
    plain: dict[str, Any] = json.loads(json.dumps(identity))
    return plain
