"""The avatar world: procedural cartoon heads with known attributes."""

from recipes.worlds.avatars.factors import FACTORS
from recipes.worlds.avatars.paint import LABELS, scene_of
from recipes.worlds.avatars.words import QUESTIONS, TEMPLATES
from recipes.worlds.world import World

WORLD = World(
    name="avatars",
    title="sat3d avatars 128",
    factors=FACTORS,
    shares={
        "hairstyle": 3.0,
        "hair_color": 1.5,
        "eye_region": 2.0,
        "expression": 2.0,
        "beard": 2.0,
        "eyeglasses": 2.0,
        "hat": 1.0,
        "skin": 1.0,
        "head_shape": 1.5,
        "nose": 1.0,
        "backdrop": 1.2,
        "clothes": 1.2,
        "light": 1.2,
    },
    attributes=("hairstyle", "hair_color", "eye_region", "expression", "beard", "eyeglasses"),
    scene_of=scene_of,
    labels=LABELS,
    details=("l_brow", "r_brow", "l_eye", "r_eye", "eye_g", "nose", "mouth", "u_lip", "l_lip"),
    segments=LABELS,
    questions=QUESTIONS,
    templates=TEMPLATES,
    pack="faces",
    goes_with={
        "clip": "sat3d-avatars",
        "segmenter": "bisenet",
        "descriptors": "faces",
        "reader": "avatars",
    },
    volume={"depth_resolution": 24, "depth_resolution_importance": 24},
    draft={"resolution": 48, "depth_resolution": 16, "depth_resolution_importance": 12},
    hides={"hairstyle": "hat", "hair_color": "hat"},
)
