"""Harder cases: what is counted can be counted by hand on the toy, whose masks are known."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import typer
from typer.testing import CliRunner

from benchmarks import harder, harder_cases
from benchmarks.harder_cases import Ground, Plan, poses, prepare, rare, sharing, together
from sat3d.artifact import Masks
from sat3d.errors import PackError, Sat3dError, UsageError
from sat3d.latents import Latent
from sat3d.registry import load_pack
from sat3d.testing import STRIPES, ToyGenerator, ToyReader, toy_masks, toy_pack

SMALL = Plan(pairs=12, bank=60, inverted=4)


def masks_of(generator: ToyGenerator, rows: dict[str, str]) -> Masks:
    """Masks that give a stripe's channels to another attribute's row."""
    masks = toy_masks(generator)
    logits = masks.logits.clone()
    for stripe, row in rows.items():
        channels = generator.planted[stripe]
        logits[:, channels] = 0.0
        logits[masks.attributes.index(row), channels] = 20.0
    return dataclasses.replace(masks, logits=logits)


def ground_of(is_3d: bool = False, rows: dict[str, str] | None = None, **plan: Any) -> Ground:
    generator = ToyGenerator(is_3d)
    masks = masks_of(generator, rows or {})
    return prepare(generator, masks, ToyReader(), dataclasses.replace(SMALL, **plan))


def means(told: Any) -> Any:
    """The same without intervals."""
    if isinstance(told, dict):
        return told["mean"] if "interval" in told else {k: means(x) for k, x in told.items()}
    return told


def test_pairs_of_attributes_share_a_label_and_one_without_region_shares_with_all():
    names = load_pack("faces").names
    found = sharing(load_pack("faces"), names)
    assert ("expression", "beard") in found and ("hairstyle", "hair_color") in found
    assert ("hair_color", "eyeglasses") not in found
    assert sharing(toy_pack(), STRIPES) == []
    first, *rest = toy_pack().attributes
    free = toy_pack().model_copy(
        update={"attributes": (first.model_copy(update={"region": None}), *rest)}
    )
    assert sharing(free, STRIPES) == [("top", "middle"), ("top", "bottom")]
    assert sharing(free, STRIPES[1:]) == [], "what is not read cannot be measured"


def test_pairs_differ_in_both_attributes_and_references_come_from_the_first_images():
    ground = ground_of()
    pairs = ground.pairs(["top", "bottom"], 0, 5)
    assert pairs.shape == (12, 2) and pairs[:, 1].max() < 5
    for name in ("top", "bottom"):
        values = ground.bank.look.values[name]
        assert bool((values[pairs[:, 0]] != values[pairs[:, 1]]).all())
    again = ground_of().pairs(["top", "bottom"], 0, 5)
    assert torch.equal(pairs, again)
    other = dataclasses.replace(ground, plan=dataclasses.replace(SMALL, seed=1))
    assert not torch.equal(pairs, other.pairs(["top", "bottom"], 0, 5))


def test_with_the_right_masks_both_at_once_succeed_and_nothing_else_moves():
    found = means(together(ground_of(), ("top", "middle")))
    alone = {"success": 1.0, "moved": 0.0, "leakage": 0.0}
    assert found == {
        "both": {"success": 1.0, "each": {"top": 1.0, "middle": 1.0}, "leakage": 0.0},
        "alone": {"top": alone, "middle": alone},
    }


def test_an_edit_that_takes_the_other_attribute_along_is_told():
    """The middle's channels are the top's here, so that the middle's own row does nothing."""
    ground = ground_of(rows={"middle": "top"})
    found = means(together(ground, ("top", "middle")))
    assert found["both"] == {"success": 1.0, "each": {"top": 1.0, "middle": 1.0}, "leakage": 0.0}
    assert found["alone"]["top"] == {"success": 1.0, "moved": 1.0, "leakage": 0.0}
    assert found["alone"]["middle"] == {"success": 0.0, "moved": 0.0, "leakage": 0.0}
    # Of two at once one fails: then both have not succeeded.
    half = means(together(ground, ("middle", "bottom")))
    assert half["both"] == {"success": 0.0, "each": {"middle": 0.0, "bottom": 1.0}, "leakage": 0.0}


def test_leakage_counts_only_the_attributes_that_were_not_asked_for():
    ground = ground_of(rows={"bottom": "top"})
    found = together(ground, ("top", "middle"))
    values = ground.bank.look.values["bottom"]
    source, reference = ground.pairs(("top", "middle"), 0, len(ground.bank)).unbind(dim=1)
    moved = float((values[source] != values[reference]).double().mean())
    assert 0 < moved < 1
    for part in (found["both"], found["alone"]["top"]):
        assert part["leakage"]["mean"] == pytest.approx(moved)
        low, high = part["leakage"]["interval"]
        assert low < moved < high
    assert found["alone"]["middle"]["leakage"]["mean"] == 0


class NeverBlue(ToyReader):
    """Sees no blue on top."""

    def read(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        found = super().read(image)
        return {**found, "top": found["top"] * torch.tensor([1.0, 1.0, 0.0])}


def unbalanced(ground: Ground, counts: tuple[int, int, int]) -> Ground:
    """The ground with a bank that shows red, green and blue on top so many times."""
    top = ground.bank.look.values["top"]
    rows = torch.cat([(top == value).nonzero()[:n, 0] for value, n in enumerate(counts)])
    assert len(rows) == sum(counts)
    bank = dataclasses.replace(
        ground.bank,
        codes=ground.bank.codes[rows],
        images=ground.bank.images[rows],
        look=ground.bank.look[rows],
    )
    return dataclasses.replace(ground, bank=bank)


def test_success_is_told_by_the_references_value_and_for_rare_values_apart():
    ground = unbalanced(ground_of(), (9, 9, 1))
    blind = dataclasses.replace(
        ground, studio=dataclasses.replace(ground.studio, reader=NeverBlue())
    )
    found = rare(blind)
    rows = {row["value"]: row for row in found["attributes"]["top"]}
    assert list(rows) == ["red", "green", "blue"]
    assert [row["pairs"] for row in rows.values()] == [4, 4, 4]
    assert [row["share"] for row in rows.values()] == pytest.approx([9 / 19, 9 / 19, 1 / 19])
    assert [row["rare"] for row in rows.values()] == [False, False, True]
    assert [row["success"]["mean"] for row in rows.values()] == [1.0, 1.0, 0.0]
    # The other stripes are read well, rare or not; every value weighs the same.
    known = [row for name in STRIPES for row in found["attributes"][name] if row["pairs"]]
    seldom = [row["success"]["mean"] for row in known if row["rare"]]
    assert found["rare"]["mean"] == pytest.approx(sum(seldom) / len(seldom))
    assert found["others"]["mean"] == 1.0


def test_values_that_no_image_shows_have_no_pairs_and_without_rare_ones_there_is_no_mean():
    ground = unbalanced(ground_of(), (9, 9, 0))
    only = dataclasses.replace(ground, names=["top"])
    found = rare(only)
    assert found["rare"] is None and found["others"]["mean"] == 1.0
    last = found["attributes"]["top"][2]
    assert last == {"value": "blue", "share": 0.0, "rare": True, "pairs": 0, "success": None}
    one = rare(dataclasses.replace(unbalanced(ground_of(), (5, 0, 0)), names=["top"]))
    assert [row["pairs"] for row in one["attributes"]["top"]] == [0, 0, 0]
    assert one["others"] is None


def test_a_bank_of_one_value_has_no_pairs():
    with pytest.raises(Sat3dError, match="one value of 'top'"):
        together(unbalanced(ground_of(), (5, 0, 0)), ("top", "middle"))


def test_references_are_known_by_their_pictures_alone(monkeypatch: pytest.MonkeyPatch):
    """A stand-in finds frontal pictures exactly, and takes every turned one for one stranger."""
    ground = ground_of(is_3d=True, pairs=40)
    generator, codes = ground.studio.generator, ground.bank.codes
    seen: list[torch.Tensor] = []

    def find(_: Any, image: torch.Tensor, *__: Any) -> Any:
        k, turned = len(seen) % 4, len(seen) >= 4
        seen.append(image)
        row = 7 if turned else k
        latent = Latent(codes.styles[row : row + 1], None, generator.orbit(0.0, 0.0))
        return SimpleNamespace(latent=latent, target=image, psnr=10.0 if turned else 30.0)

    monkeypatch.setattr(harder_cases, "invert", find)
    found = poses(ground)
    for k, image in enumerate(seen):
        yaw = 0.0 if k < 4 else torch.pi / 6 * (1 if k % 2 == 0 else -1)
        drawn = generator.render(codes.styles[k % 4 : k % 4 + 1], generator.orbit(yaw, 0.0))
        torch.testing.assert_close(image, drawn.image.clamp(-1, 1))
    assert found["references"] == 4
    assert means(found["inversions"]) == {
        "front": {"psnr": 30.0, "poor": 0}, "turned": {"psnr": 10.0, "poor": 4}
    }  # fmt: skip
    shares = []
    for name in STRIPES:
        values = ground.bank.look.values[name]
        references = ground.pairs([name], 2, 4)[:, 1]
        shares.append(float((values[references] == values[7]).double().mean()))
        told = means(found["attributes"][name])
        assert told["code"] == told["front"] == {"success": 1.0, "leakage": 0.0}
        assert told["turned"] == {"success": pytest.approx(shares[-1]), "leakage": 0.0}
    lost = sum(shares) / 3 - 1
    assert lost < 0
    assert means(found["mean"]["turned"])["success"] == pytest.approx(1 + lost)
    less = found["difference"]["turned less front"]["success"]
    assert less["mean"] == pytest.approx(lost)
    assert less["interval"][0] < lost < less["interval"][1]
    assert found["difference"]["front less code"]["success"] == {"mean": 0.0, "interval": [0, 0]}


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The command, on a toy."""
    generator = ToyGenerator(True)
    monkeypatch.setattr(harder, "load_pair", lambda *_: (toy_masks(generator), generator))
    monkeypatch.setattr(harder, "find_reader", lambda *_: ToyReader())
    app = typer.Typer()
    app.command()(harder.main)
    common = ["--masks", "toy", "--pairs", "6", "--bank", "40", "--device", "cpu", "--quiet"]
    return lambda *more: CliRunner().invoke(app, [*common, *more])


def test_one_command_writes_figures_and_prints_tables(tmp_path: Path, run: Any):
    two, few = ["--together", "top+Middle stripe"], ["--inverted", "2"]
    told = []
    for name in ("one.json", "two.json"):
        done = run("--out", str(tmp_path / name), *two, *few)
        assert done.exit_code == 0, done.output
        told.append(json.loads((tmp_path / name).read_text()))
        assert told[-1].pop("seconds").keys() == {"together", "rare", "poses"}
    assert told[0] == told[1], "the same seed, another report"
    found = told[0]
    assert list(found["together"]) == ["top+middle"]
    assert found["settings"]["pairs"] == 6 and found["settings"]["yaw"] == 30
    assert found["poses"]["references"] == 2
    assert found["poses"]["mean"]["code"]["success"]["mean"] == 1
    # The toy is simple enough for the search to find its colours from any side.
    assert found["poses"]["mean"]["turned"]["success"]["mean"] > 0.8
    assert found["versions"]["torch"] == torch.__version__
    for word in ("at once", "the reference's value", "turned by 30 degrees"):
        assert word in " ".join(done.output.split())


def test_a_2d_generator_and_nothing_to_invert_leave_poses_out(
    tmp_path: Path, run: Any, monkeypatch: pytest.MonkeyPatch
):
    out = tmp_path / "harder.json"
    assert run("--out", str(out), "--inverted", "0").exit_code == 0
    found = json.loads(out.read_text())
    assert found["poses"] is None and "--inverted 0" in found["notes"][0]
    assert found["together"] == {}, "no two stripes share a region"
    generator = ToyGenerator()
    monkeypatch.setattr(harder, "load_pair", lambda *_: (toy_masks(generator), generator))
    done = run("--out", str(out))
    assert done.exit_code == 0, done.output
    assert "is 2D" in json.loads(out.read_text())["notes"][0] and "is 2D" in done.output


def test_pairs_of_attributes_that_make_no_sense_are_refused(tmp_path: Path, run: Any):
    out = tmp_path / "harder.json"
    for text in ("top", "top+top", "top+middle+bottom"):
        assert isinstance(run("--out", str(out), "--together", text).exception, UsageError)
    assert isinstance(run("--out", str(out), "--together", "top+mid").exception, PackError)
    reader = ToyReader()
    reader.attributes = {"top": reader.attributes["top"]}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(harder, "find_reader", lambda *_: reader)
        wrong = run("--out", str(out), "--together", "top+middle").exception
    assert isinstance(wrong, UsageError) and "does not read 'middle'" in str(wrong)
    assert not out.exists()
