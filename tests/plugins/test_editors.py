"""The bundled methods of editing, on a toy whose channels and boundaries are known."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sat3d.editors import draw_pool, load_editor
from sat3d.errors import UsageError
from sat3d.interfaces import Bench, Codes
from sat3d.progress import SILENT
from sat3d.registry import discover
from sat3d.testing import (
    COLOURS,
    STRIPES,
    ToyGenerator,
    ToyMeasure,
    ToyReader,
    ToySegmenter,
    toy_masks,
    toy_pack,
)

PACK = toy_pack()
SIZES = {a.name: [len(g.phrases) for g in a.groups] for a in PACK.attributes}
PARTS = (*STRIPES, "frame")


class Phrased(ToyMeasure):
    """A toy text-image model that also knows where its phrases lie."""

    def __init__(self) -> None:
        super().__init__(PACK, crosstalk=0.0)
        phrases = [p for a in PACK.attributes for g in a.groups for p in g.phrases]
        self.phrases = torch.zeros(len(phrases), 12)
        for row, phrase in zip(self.phrases, phrases, strict=True):
            colour, part = phrase.split()[-2:]
            row.view(4, 3)[PARTS.index(part)] = torch.tensor(COLOURS[colour])


def make_bench(generator: ToyGenerator | None = None, count: int = 240, **more: Any) -> Bench:
    generator = generator or ToyGenerator()
    measure = Phrased()
    pool = draw_pool(generator, measure, SIZES, count)
    parts = {
        "measure": measure,
        "segmenter": ToySegmenter(),
        "masks": toy_masks(generator),
        **more,
    }
    return Bench(generator, PACK, pool, SILENT, **parts)


@pytest.fixture(scope="module")
def bench() -> Bench:
    return make_bench()


def differing(bench: Bench, attribute: str) -> tuple[Codes, Codes]:
    """All pairs of neighbours in the pool that show different values."""
    shown = bench.pool.values[attribute][0].argmax(dim=1)
    first = torch.arange(len(shown) - 1)
    first = first[shown[:-1] != shown[1:]]
    return bench.pool[first], bench.pool[first + 1]


def success(bench: Bench, editor: Any, attribute: str, intensity: float) -> float:
    """Share of edits that read as the reference."""
    source, reference = differing(bench, attribute)
    reader = ToyReader()
    result = bench.generator.render(editor.edit(source, reference, attribute, intensity)).image
    wanted = reader.read(bench.generator.render(reference.styles).image)[attribute].argmax(dim=1)
    found = reader.read(result)[attribute].argmax(dim=1)
    return float((found == wanted).float().mean())


def leakage(bench: Bench, editor: Any, attribute: str, intensity: float) -> float:
    """Mean share of the other stripes that read differently from the source's."""
    source, reference = differing(bench, attribute)
    reader = ToyReader()
    after = reader.read(
        bench.generator.render(editor.edit(source, reference, attribute, intensity)).image
    )
    before = reader.read(bench.generator.render(source.styles).image)
    others = [x for x in STRIPES if x != attribute]
    changed = [after[x].argmax(1) != before[x].argmax(1) for x in others]
    return float(torch.stack(changed).float().mean())


def fitted(text: str, bench: Bench) -> tuple[Any, Mapping[str, Any]]:
    editor = load_editor(text)
    return editor, editor.fit(bench)


def test_all_seven_are_on_offer_and_say_what_they_are() -> None:
    editors = discover().editors
    names = ["interfacegan", "masks", "none", "preim3d", "region", "styleclip", "swap"]
    assert sorted(editors) == names
    assert all(offer.spec.summary for offer in editors.values())
    for name in names:
        assert load_editor(name).name == name


@pytest.mark.parametrize(
    "text", ["masks", "interfacegan", "preim3d", "region", "styleclip", "swap", "none"]
)
def test_every_editor_changes_nothing_at_zero_and_nothing_in_place(text: str) -> None:
    bench = make_bench(ToyGenerator(is_3d=True), count=100)
    editor, facts = fitted(text, bench)
    source, reference = differing(bench, "top")
    before = source.styles.clone(), reference.styles.clone()
    still = editor.edit(source, reference, "top", 0.0)
    assert torch.allclose(still, before[0], atol=1e-5)  # a sum of float32 terms that cancel
    moved = editor.edit(source, reference, "top", 1.0)
    assert moved.shape == source.styles.shape
    assert moved.isfinite().all()
    assert torch.equal(source.styles, before[0])
    assert torch.equal(reference.styles, before[1])
    assert isinstance(facts, Mapping)


def test_the_masks_editor_does_what_a_transfer_does(bench: Bench) -> None:
    from sat3d.mask import edit

    editor, facts = fitted("masks", bench)
    source, reference = differing(bench, "middle")
    assert bench.masks is not None
    mask = bench.masks.mask(["middle"])
    wanted = edit(source.styles, reference.styles, mask, bench.generator.layout, 1.5)
    assert torch.equal(editor.edit(source, reference, "middle", 1.5), wanted)
    assert facts["channels"]["middle"] == len(bench.generator.planted["middle"])


def test_hard_masks_are_zero_or_one(tmp_path: Path) -> None:
    generator = ToyGenerator()
    soft = toy_masks(generator, sureness=1.0)
    soft.save(tmp_path / "soft.safetensors")
    bench = make_bench(generator, masks=None)
    with pytest.raises(UsageError, match="needs masks"):
        load_editor("masks").fit(bench)
    editor, _ = fitted(f"masks:file={tmp_path / 'soft.safetensors'},hard=0.4", bench)
    for mask in editor.masks.values():
        assert set(mask.unique().tolist()) <= {0.0, 1.0}


def test_the_regions_channels_are_those_that_paint_it(bench: Bench) -> None:
    editor, facts = fitted("region", bench)
    for name in STRIPES:
        chosen = editor.masks[name].nonzero().squeeze(1)
        assert torch.equal(chosen, bench.generator.planted[name].sort().values)
        assert facts["channels"][name] == 16  # a quarter of 64: three stripes and the frame
    assert success(bench, editor, "top", 1.0) >= 0.95
    with pytest.raises(UsageError, match="needs a segmenter"):
        load_editor("region").fit(make_bench(segmenter=None, count=4))


def test_a_swap_takes_all_editable_channels_and_leaves_the_others(bench: Bench) -> None:
    editor, _ = fitted("swap", bench)
    source, reference = differing(bench, "top")
    result = editor.edit(source, reference, "top", 1.0)
    editable = bench.generator.layout.editable
    rest = torch.ones(result.shape[1], dtype=torch.bool).index_fill(0, editable, False)
    assert torch.allclose(result[:, editable], reference.styles[:, editable], atol=1e-6)
    assert torch.equal(result[:, rest], source.styles[:, rest])


def test_boundaries_lead_to_the_references_value(bench: Bench) -> None:
    editor, facts = fitted("interfacegan", bench)
    best = max(success(bench, editor, "top", x) for x in editor.intensities)
    assert best >= 0.8  # a line in W reaches a colour, but not from everywhere
    assert success(bench, editor, "top", 0.0) == 0.0
    assert facts["images"] == 240
    for groups in facts["accuracy"].values():
        assert all(x > 0.8 for x in groups[0])


def test_a_conditional_edit_is_orthogonal_to_the_other_attributes_normals(bench: Bench) -> None:
    plain, _ = fitted("interfacegan:conditional=0", bench)
    conditional, _ = fitted("interfacegan", bench)
    others = torch.cat([plain.directions[x][0] for x in STRIPES if x != "top"])
    for direction in conditional.directions["top"][0]:
        cosine = torch.nn.functional.cosine_similarity(others, direction[None])
        assert cosine.abs().max() < 1e-4  # float32 projection
    loose = torch.nn.functional.cosine_similarity(others, plain.directions["top"][0][:1])
    assert loose.abs().max() > 0.01
    assert leakage(bench, conditional, "top", 2.0) <= leakage(bench, plain, "top", 2.0)


def test_a_step_is_one_standard_deviation_along_the_normal(bench: Bench) -> None:
    editor, _ = fitted("interfacegan:conditional=0", bench)
    assert bench.pool.w is not None
    w = bench.pool.w.mean(dim=1)
    for direction in editor.directions["bottom"][0]:
        length = direction.norm()
        assert (w @ (direction / length)).std() == pytest.approx(float(length), rel=1e-4)


def test_codes_without_w_are_moved_as_far_as_those_with_it(bench: Bench) -> None:
    editor, _ = fitted("interfacegan", bench)
    source, reference = differing(bench, "top")
    known = editor.edit(source, reference, "top", 2.0)
    bare = Codes(source.styles, None, source.cameras, source.values)
    # The toy's styles are linear in w, as any StyleGAN's are affine.
    assert torch.allclose(editor.edit(bare, reference, "top", 2.0), known, atol=1e-4)


def test_preim3d_learns_from_what_the_encoder_makes_of_the_images() -> None:
    class Encoding(ToyGenerator):
        asked = 0

        def encode(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
            self.asked += len(image)
            colours = image.mean(dim=(2, 3)).repeat(1, 4)
            return colours[:, None].expand(-1, 2, -1), None

    generator = Encoding(is_3d=True)
    bench = make_bench(generator, count=120)
    editor, facts = fitted("preim3d:images=90", bench)
    assert facts["inverted"] is True
    assert facts["images"] == generator.asked == 90
    assert editor.directions["top"][0].shape == (3, 2 * 12)
    plain = ToyGenerator(is_3d=True)
    editor, facts = fitted("preim3d", make_bench(plain))
    assert facts["inverted"] is False
    assert max(success(make_bench(plain), editor, "top", x) for x in (1.0, 2.0, 3.0)) >= 0.6


def test_preim3d_is_for_3d_generators(bench: Bench) -> None:
    with pytest.raises(UsageError, match="edits 3D, 'toy' draws 2D"):
        load_editor("preim3d").fit(bench)


def test_styleclip_moves_the_channels_that_the_text_is_about(bench: Bench) -> None:
    editor, facts = fitted("styleclip:images=6,beta=0.3", bench)
    assert facts == {"images": 6, "beta": 0.3}
    source, reference = differing(bench, "middle")
    step = editor.edit(source, reference, "middle", 1.0) - source.styles
    touched = (step[:, bench.generator.layout.editable] != 0).any(dim=0).nonzero().squeeze(1)
    planted = set(bench.generator.planted["middle"].tolist())
    assert touched.numel() >= 4
    assert set(touched.tolist()) <= planted
    assert max(success(bench, editor, "middle", x) for x in editor.intensities) >= 0.6


def test_styleclip_does_nothing_where_the_text_stays_the_same(bench: Bench) -> None:
    editor, _ = fitted("styleclip:images=1", bench)
    source = bench.pool[slice(0, 5)]
    assert torch.equal(editor.edit(source, source, "top", 10.0), source.styles)


@pytest.mark.parametrize("name", ["interfacegan", "preim3d", "styleclip"])
def test_what_needs_a_text_image_model_says_so(name: str) -> None:
    generator = ToyGenerator(is_3d=True)
    pool = draw_pool(generator, None, SIZES, 8)
    with pytest.raises(UsageError, match="needs a text-image model"):
        load_editor(name).fit(Bench(generator, PACK, pool, SILENT))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("swap:beta=1", "unknown option 'beta'"),
        ("styleclip:bta=1", "Did you mean 'beta'"),
        ("styleclip:beta=much", "beta=much is no float"),
        ("preim3d:images=1.5", "images=1.5 is no int"),
        ("interfacegan:fraction", "not one KEY=VALUE"),
    ],
)
def test_a_wrong_option_is_refused_with_a_line_that_says_what_is_known(
    text: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        load_editor(text)


def test_a_share_that_makes_no_sense_is_refused(bench: Bench) -> None:
    with pytest.raises(UsageError, match="not in 0 to 0.5"):
        load_editor("interfacegan:fraction=0.7").fit(bench)


def test_a_fit_is_the_same_again(bench: Bench) -> None:
    first, again = (fitted("interfacegan", bench)[0] for _ in range(2))
    for name in STRIPES:
        assert torch.equal(first.directions[name][0], again.directions[name][0])
