"""Cats, seen from about the front as in AFHQ: color, pattern and length of their fur."""

from recipes.worlds.cats.paint import LABELS, scene_of
from recipes.worlds.cats.shape import FACTORS
from recipes.worlds.world import Cameras, World, ask

QUESTIONS = (
    ask(
        "fur_color",
        ("black fur", "a black coat", "charcoal fur", "dark black fur"),
        ("gray fur", "grey fur", "a gray coat", "blue-gray fur", "silver fur"),
        ("brown fur", "a brown coat", "chocolate fur", "dark brown fur"),
        ("orange fur", "ginger fur", "a ginger coat", "red fur", "marmalade fur"),
        ("white fur", "a white coat", "snow-white fur", "cream-white fur"),
    ),
    ask(
        "fur_pattern",
        ("solid-colored fur", "a plain coat", "fur of a single color", "fur without a pattern"),
        ("tabby stripes", "striped fur", "a striped tabby coat", "a mackerel tabby pattern"),
        ("spotted fur", "spots", "a spotted coat", "fur with many spots"),
        ("dark Siamese points", "a dark face and dark ears", "a dark mask", "colorpoint fur"),
    ),
    ask(
        "fur_length",
        ("short fur", "a short coat", "smooth short hair", "a shorthaired coat"),
        ("medium-length fur", "a medium coat", "half-long fur", "slightly fluffy fur"),
        ("long fluffy fur", "a long coat", "long hair with a ruff", "a fluffy mane"),
    ),
    ask(
        "collar",
        ("no collar", "a bare neck", "a neck without a collar"),
        ("a collar", "a collar with a bell", "a colored collar"),
    ),
)

WORLD = World(
    name="cats",
    title="sat3d cats 128",
    factors=FACTORS,
    shares={
        "fur_color": 1.5, "fur_pattern": 2.5, "fur_length": 3.0, "eyes": 1.2, "ears": 1.2,
        "head_shape": 1.5, "pose": 2.0, "collar": 1.0, "backdrop": 1.2, "light": 1.2,
    },
    attributes=("fur_color", "fur_pattern", "fur_length"),
    scene_of=scene_of,
    labels=LABELS,
    details=("eye", "nose"),
    segments=("background", "cat", "cat", "cat", "cat", "cat"),
    questions=QUESTIONS,
    templates=(
        "a photo of a cat with {}", "{}", "a cat with {}", "a cartoon cat with {}",
        "a kitten with {}", "a drawing of a cat with {}", "the face of a cat with {}",
    ),
    pack="cats",
    goes_with={
        "clip": "sat3d-worlds", "segmenter": "deeplabv3", "descriptors": "cats", "reader": "cats",
    },
    cameras=Cameras(),
    volume={"depth_resolution": 24, "depth_resolution_importance": 24},
    draft={"resolution": 32, "depth_resolution": 16, "depth_resolution_importance": 12},
    dim=160,
)  # fmt: skip
