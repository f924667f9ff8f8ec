"""Weights that come with a plugin: the pack chooses them, and masks find them again."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sat3d import doctor, embedded
from sat3d.artifact import load_masks
from sat3d.cli.app import run
from sat3d.cli.loading import load_pair
from sat3d.errors import InputError, MismatchError, UsageError
from sat3d.hookspecs import hookimpl
from sat3d.interfaces import WeightsCard
from sat3d.qmm import QMM
from sat3d.registry import discover, load_generator, load_reader, load_segmenter, registered
from sat3d.specs import (
    ClipSpec,
    DescriptorSpec,
    GeneratorSpec,
    ReaderSpec,
    SegmenterSpec,
    WeightsListSpec,
)
from sat3d.testing import (
    ToyGenerator,
    ToyMeasure,
    ToyReader,
    ToySegmenter,
    toy_masks,
    toy_pack,
)
from sat3d.weights import read_header, save_weights

CPU = torch.device("cpu")
FAST = ["--preset", "quick", "--device", "cpu", "--steps", "2", "--pool", "32", "--quiet"]
FAST += ["--set", "preselection.images=8"]
LISTED = """
kind: generator
plugin: toy
weights:
  - name: toy-bands
    title: Bands
    domain: bands
    file: bands.pkl
    page: https://example.org
    licence: none
    licence_url: https://example.org
    commercial: no
    goes_with: {descriptors: bands}
"""


def write(path: Path, seed: int, pack: str | None, kind: str = "generator") -> Path:
    """A toy's weights: all that differs is the seed."""
    fits = {"reader": "toy", "segmenter": "toy", "clip": "toy"}
    fits |= {"descriptors": pack} if pack else {}
    header = {"kind": kind, "architecture": "toy", "seed": seed, "goes_with": fits}
    save_weights(path, {"x": torch.zeros(1)}, header)
    return path


def load_toy(default: Path, weights: str | None) -> ToyGenerator:
    path = default if weights is None else Path(weights)
    if not path.is_file():
        raise InputError(f"no file '{path}'")
    header = read_header(path)
    if header["architecture"] != "toy":
        raise InputError(f"'{path}' is of another architecture")
    generator = ToyGenerator(seed=header["seed"])
    fingerprint = generator.card.fingerprint
    generator.card = WeightsCard(path.stem, fingerprint, path, goes_with=header["goes_with"])
    return generator


class Toys:
    """A generator with weights for two packs, and packs for which there are none."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.weights = folder, folder / "weights"
        write(self.weights / "first.safetensors", 0, "stripes")
        write(self.weights / "second.safetensors", 1, "dots")
        for name in ("stripes", "dots", "own", "bands"):
            pack = toy_pack(name=name).model_dump(mode="json")
            (folder / f"{name}.yaml").write_text(json.dumps(pack))
        (folder / "list.yaml").write_text(LISTED)

    @hookimpl
    def register_generators(self, register: Callable[[GeneratorSpec], None]) -> None:
        default = self.weights / "first.safetensors"
        files = embedded.weights_in(self.weights)
        register(
            GeneratorSpec("toy", "stripes", lambda w, d: load_toy(default, w), weights_files=files)
        )

    @hookimpl
    def register_segmenters(self, register: Callable[[SegmenterSpec], None]) -> None:
        register(SegmenterSpec("toy", "stripes", lambda w, d: ToySegmenter()))

    @hookimpl
    def register_readers(self, register: Callable[[ReaderSpec], None]) -> None:
        register(ReaderSpec("toy", "stripes", lambda w, d: ToyReader()))

    @hookimpl
    def register_descriptors(self, register: Callable[[DescriptorSpec], None]) -> None:
        for name in ("stripes", "dots", "own", "bands"):
            register(DescriptorSpec(name, name, self.folder / f"{name}.yaml"))

    @hookimpl
    def register_weights(self, register: Callable[[WeightsListSpec], None]) -> None:
        register(WeightsListSpec("toy", "published toys", self.folder / "list.yaml"))


@pytest.fixture
def toys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Toys]:
    """The only plugin, in a folder of its own; the store is empty."""
    monkeypatch.setenv("SAT3D_PLUGINS", "")
    monkeypatch.setenv("SAT3D_WEIGHTS", str(tmp_path / "store"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(QMM, "load", lambda pack, *_: ToyMeasure(pack))
    monkeypatch.chdir(tmp_path)
    made = Toys(tmp_path)
    with registered("toys", made):
        yield made


def trained(*more: str) -> str:
    """The weights that a training took."""
    command = ["train", "--generator", "toy", "--out", "run", "--overwrite", *FAST, *more]
    assert run(command) == 0
    return str(load_masks(Path("run")).header["generator"]["weights"])


# ---------------------------------------------------------------- which weights are taken


def test_the_pack_decides_which_embedded_weights_are_taken(toys: Toys) -> None:
    assert trained("--descriptors", "dots") == "second"
    assert trained("--descriptors", "stripes") == "first"
    assert trained("--descriptors", "./dots.yaml") == "second"


def test_weights_that_are_asked_for_win_by_name_and_by_path(toys: Toys) -> None:
    assert trained("--descriptors", "dots", "--weights", "first") == "first"
    path = str(toys.weights / "second.safetensors")
    assert trained("--descriptors", "stripes", "--weights", path) == "second"
    # A pack for which there are none may be tried on any.
    assert trained("--descriptors", "bands", "--weights", "second") == "second"


def test_a_misspelt_name_is_answered_with_the_embedded_ones(toys: Toys) -> None:
    spec = discover().generator("toy").spec
    with pytest.raises(
        UsageError, match=r"unknown weights 'secnd'.* Embedded ones of 'toy': .*second"
    ):
        load_generator("toy", "secnd", CPU)
    assert embedded.by_name(spec, "far.safetensors") == "far.safetensors", "the plugin's to say"
    store = Path(os.environ["SAT3D_WEIGHTS"])
    store.mkdir()
    write(store / "secnd.safetensors", 3, None)
    assert embedded.by_name(spec, "secnd") == "secnd"


def test_without_a_pack_and_for_a_pack_of_ones_own_the_default_is_taken(toys: Toys) -> None:
    assert trained() == "first"
    assert trained("--descriptors", "own") == "first"


def test_of_several_that_go_with_a_pack_the_first_is_taken(toys: Toys) -> None:
    write(toys.weights / "alpha.safetensors", 2, "dots")
    assert trained("--descriptors", "dots") == "alpha"


def test_a_pack_for_which_only_published_weights_are_is_refused(
    toys: Toys, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["train", "--generator", "toy", "--descriptors", "bands", *FAST]) == 2
    shown = capsys.readouterr().err.replace("\n", " ")
    assert "no embedded weights of 'toy' go with pack 'bands'" in shown
    assert "toy-bands" in shown
    assert "first, second" in shown
    assert not Path("runs").exists()


def test_missing_weights_keep_what_the_plugin_says(
    toys: Toys, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in toys.weights.iterdir():
        path.unlink()
    assert run(["train", "--generator", "toy", "--descriptors", "bands", *FAST]) == 2
    assert "no file" in capsys.readouterr().err


def test_damaged_embedded_weights_are_named(toys: Toys, capsys: pytest.CaptureFixture[str]) -> None:
    (toys.weights / "first.safetensors").write_bytes(b"no tensors")
    assert run(["train", "--generator", "toy", "--descriptors", "dots", *FAST]) == 2
    assert "first.safetensors' is not a readable" in capsys.readouterr().err.replace("\n", "")


def test_trying_a_pack_takes_the_weights_of_the_pack_too(
    toys: Toys, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    monkeypatch.setattr(
        "sat3d.trial.draws",
        lambda generator, *_: seen.append(generator.card.name) or iter([torch.zeros(2, 3, 16, 16)]),
    )
    assert run(["descriptors", "try", "dots", "--generator", "toy", "--json"]) == 0
    assert seen == ["second"]


def test_embedded_weights_load_by_name_in_a_program_too(toys: Toys) -> None:
    assert load_generator("toy", "second", "cpu").card.name == "second"
    assert load_generator("toy", None, "cpu").card.name == "first"


# ---------------------------------------------------------------- masks find them again


def masks_for(path: Path, seed: int, name: str) -> Path:
    generator = ToyGenerator(seed=seed)
    generator.card = WeightsCard(name, generator.card.fingerprint)
    toy_masks(generator).save(path)
    return path


def test_masks_find_the_embedded_weights_that_they_were_made_for(toys: Toys) -> None:
    masks = masks_for(toys.folder / "m.safetensors", 1, "second")
    few = ["--pairs", "2", "--bank", "40", "--multi-view-pairs", "0", "--quiet"]
    assert run(["evaluate", "--masks", str(masks), "--json", "found.json", *few]) == 0
    found = json.loads(Path("found.json").read_text())
    assert found["generator"]["weights"] == "second"
    assert load_pair(masks, "toy", None, "cpu")[1].card.name == "second"
    with pytest.raises(MismatchError, match="loaded are 'first'"):
        load_pair(masks, None, "first", "cpu")


def test_masks_find_weights_of_the_store(toys: Toys) -> None:
    stored = write(toys.folder / "store" / "mine.safetensors", 7, None)
    masks = masks_for(toys.folder / "m.safetensors", 7, "mine")
    assert load_pair(masks, None, None, "cpu")[1].card.path == stored
    # Of two of the same name it is the one of these masks.
    stored = write(toys.folder / "store" / "second.safetensors", 8, None)
    masks = masks_for(toys.folder / "m.safetensors", 8, "second")
    assert load_pair(masks, None, None, "cpu")[1].card.path == stored


def test_masks_whose_weights_are_nowhere_are_refused_with_both_names(toys: Toys) -> None:
    write(toys.folder / "store" / "gone.safetensors", 9, None, kind="segmenter")
    masks = masks_for(toys.folder / "m.safetensors", 9, "gone")
    with pytest.raises(MismatchError, match="weights 'gone'.*loaded are 'first'"):
        load_pair(masks, None, None, "cpu")


# ---------------------------------------------------------------- what is shown


def test_the_list_of_plugins_shows_embedded_weights_and_their_packs(
    toys: Toys, capsys: pytest.CaptureFixture[str]
) -> None:
    write(toys.weights / "plain.safetensors", 3, None)
    (toys.weights / "torn.safetensors").write_bytes(b"no tensors")
    assert run(["plugins"]) == 0
    shown = capsys.readouterr().out
    assert "stripes; weights: first (stripes), plain (-), second (dots), torn (-)" in shown
    assert run(["plugins", "--json"]) == 0
    offers = {x["kind"]: x for x in json.loads(capsys.readouterr().out)["offers"]}
    assert offers["generator"]["weights"]["second"] == "dots"
    assert "weights" not in offers["reader"]


def test_listing_plugins_with_their_weights_imports_no_torch() -> None:
    code = (
        "import sys; from sat3d.cli.plugins_command import plugins; plugins();"
        "print(sorted({'torch', 'numpy', 'pydantic'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "generator" in done.stdout


def test_a_spec_whose_files_are_no_paths_is_a_problem_of_its_plugin() -> None:
    class Wrong:
        @hookimpl
        def register_generators(self, register: Callable[[GeneratorSpec], None]) -> None:
            files: Any = {"a": "a.safetensors"}
            register(GeneratorSpec("wrong", "", lambda w, d: ToyGenerator(), weights_files=files))

    (problem,) = [p for p in discover([("wrong", Wrong())]).problems if p.plugin == "wrong"]
    assert "weights_files has 'a': 'a.safetensors'" in problem.reason


def test_the_doctor_names_embedded_weights_that_are_damaged(toys: Toys) -> None:
    assert not [x for x in doctor.examine().problems if "toy" in x]
    (toys.weights / "second.safetensors").write_bytes(b"no tensors")
    (problem,) = [x for x in doctor.examine().problems if "toy" in x]
    assert "second.safetensors' is not a readable" in problem


# ---------------------------------------------------------------- the bundled plugins


EG3D = {"z_dim": 8, "w_dim": 8, "plane_resolution": 8, "neural_resolution": 16}
EG3D |= {"channel_base": 64, "channel_max": 8, "superresolution": "2X"}


def save_eg3d(path: Path, fits: dict[str, str], **header: Any) -> None:
    from sat3d_plugins.generators.eg3d.networks import EG3DConfig, TriplaneGenerator

    torch.manual_seed(len(path.stem))
    config = EG3DConfig(**EG3D)
    about = {"kind": "generator", "architecture": "eg3d", "config": config.to_dict()}
    about |= {"goes_with": fits, **header}
    save_weights(path, TriplaneGenerator(config).state_dict(), about)


def save_stylegan2(path: Path, fits: dict[str, str]) -> None:
    from sat3d_plugins.generators.stylegan2.generator import StyleGAN2Config, make_network

    config = StyleGAN2Config(8, 0, 8, 16, 64, 8, {"num_layers": 2})
    about = {"kind": "generator", "architecture": "stylegan2", "config": config.to_dict()}
    save_weights(path, make_network(config).state_dict(), {**about, "goes_with": fits})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that all bundled plugins take their weights from."""
    from sat3d_plugins import clip
    from sat3d_plugins.generators import eg3d, stylegan2
    from sat3d_plugins.generators.stylegan2 import generator as flat
    from sat3d_plugins.readers import attributes
    from sat3d_plugins.segmenters import deeplabv3
    from sat3d_plugins.segmenters.deeplabv3 import segmenter

    weights = tmp_path / "weights"
    weights.mkdir()
    for plugin in (eg3d, stylegan2, attributes, deeplabv3):
        monkeypatch.setattr(plugin, "_HERE", tmp_path)
    monkeypatch.setattr(flat, "BUNDLED", weights / flat.BUNDLED.name)
    monkeypatch.setattr(segmenter, "BUNDLED", weights / segmenter.BUNDLED.name)
    worlds = replace(clip.WORLDS, weights=weights / clip.WORLDS.weights.name)
    monkeypatch.setattr(clip, "WORLDS", worlds)
    return weights


def test_files_of_new_worlds_are_all_that_eg3d_needs(folder: Path) -> None:
    for name, pack in (("avatars", "faces"), ("cats", "cats"), ("cars", "cars")):
        save_eg3d(folder / f"{name}.safetensors", {"descriptors": pack})
    spec = discover().generator("eg3d").spec
    assert embedded.packs(spec) == {"avatars": "faces", "cars": "cars", "cats": "cats"}
    for pack, name in (("faces", "avatars"), ("cats", "cats"), ("cars", "cars")):
        assert embedded.for_pack(spec, pack) == name
        assert load_generator("eg3d", name, "cpu").card.goes_with == {"descriptors": pack}


def test_a_pack_of_published_weights_is_not_trained_on_the_avatars(folder: Path) -> None:
    from sat3d_plugins.generators import eg3d

    published = Path(eg3d.__file__).parent / "weights.yaml"
    (folder.parent / "weights.yaml").write_bytes(published.read_bytes())
    save_eg3d(folder / "avatars.safetensors", {"descriptors": "faces"})
    spec = discover().generator("eg3d").spec
    for pack in ("cats", "cars"):
        with pytest.raises(UsageError, match=f"go with pack '{pack}'; published ones do: eg3d-"):
            embedded.for_pack(spec, pack)
    assert embedded.for_pack(spec, "headgear") is None


def test_stylegan2_has_a_default_as_soon_as_the_file_is_there(folder: Path) -> None:
    spec = discover().generator("stylegan2").spec
    assert not spec.embedded and "give --weights" in spec.summary
    assert embedded.for_pack(spec, "faces") is None
    save_stylegan2(folder / "avatars2d.safetensors", {"descriptors": "faces"})
    spec = discover().generator("stylegan2").spec
    assert spec.embedded and "give --weights" not in spec.summary
    assert embedded.for_pack(spec, "faces") == "avatars2d"
    assert load_generator("stylegan2", None, "cpu").card.name == "avatars2d"


def test_every_file_of_readers_is_a_reader_by_its_name(folder: Path) -> None:
    from sat3d_plugins.readers.attributes.reader import ReaderNetwork

    assert set(discover().readers) == {"complexion"}
    attributes = {"fur": ["short", "long"]}
    config = {"attributes": attributes, "widths": [4, 6, 8], "size": 32}
    header = {"kind": "reader", "architecture": "avatar-reader", "config": config}
    for name in ("avatars", "cats"):
        tensors = ReaderNetwork(attributes, [4, 6, 8]).state_dict()
        save_weights(folder / f"{name}.safetensors", tensors, header)
    assert {"avatars", "cats"} < set(discover().readers)
    cats, avatars = (load_reader(name, None, "cpu") for name in ("cats", "avatars"))
    assert (cats.name, avatars.name) == ("cats", "avatars")
    # Who is shown is told by the skin of cartoon heads, and by nothing for other worlds.
    assert cats.card.goes_with == {} and avatars.card.goes_with == {"identity": "complexion"}
    other = load_reader("cats", folder / "avatars.safetensors", "cpu")
    assert other.card.name == "avatars"


def test_the_segmenter_of_cats_is_the_default_as_soon_as_it_is_there(folder: Path) -> None:
    from sat3d_plugins.segmenters.deeplabv3.networks import SMALL, DeepLabConfig, make_network

    assert not discover().segmenter("deeplabv3").spec.embedded
    config = DeepLabConfig("smp", SMALL, ("background", "cat"), 64, decoder=16)
    about = {"kind": "segmenter", "architecture": "deeplabv3", "config": config.to_dict()}
    save_weights(folder / "cats.safetensors", make_network(config).state_dict(), about)
    assert discover().segmenter("deeplabv3").spec.embedded
    assert load_segmenter("deeplabv3", None, "cpu").labels == ("background", "cat")


def test_the_text_image_model_of_other_worlds_is_offered_when_it_is_there(folder: Path) -> None:
    assert set(discover().clip_models) == {"sat3d-avatars"}
    (folder / "sat3d-worlds.safetensors").touch()
    spec = discover().clip_model("sat3d-worlds").spec
    assert isinstance(spec, ClipSpec) and spec.config.is_file()


@pytest.mark.parametrize(
    ("name", "weights"),
    [(n, w) for n, x in discover().generators.items() for w in x.spec.weights_files],
)
def test_what_embedded_weights_name_as_fitting_is_on_offer(name: str, weights: str) -> None:
    catalogue = discover()
    path = catalogue.generator(name).spec.weights_files[weights]
    fits = read_header(path)["goes_with"]
    pack = catalogue.descriptor(fits["descriptors"]).spec.path
    assert pack.is_file()
    assert embedded.for_pack(catalogue.generator(name).spec, fits["descriptors"]) == weights
    catalogue.clip_model(fits["clip"])
    catalogue.reader(fits["reader"])
    if fits["segmenter"] != "none":
        assert catalogue.segmenter(fits["segmenter"]).spec.embedded


# ---------------------------------------------------------------- cameras that look from above


def test_cameras_may_lie_around_another_pitch_than_that_of_the_horizon(tmp_path: Path) -> None:
    from sat3d_plugins.generators.eg3d.generator import load

    cameras = {"radius": 1.7, "focal": 1.7, "pivot": [0, 0, 0], "yaw": 3.0, "pitch": 0.3}
    paths = [tmp_path / f"{k}.safetensors" for k in range(2)]
    save_eg3d(paths[0], {}, cameras=cameras)
    save_eg3d(paths[1], {}, cameras={**cameras, "pitch_centre": -0.4})
    level, above = (load(str(path), CPU) for path in paths)
    height = [g.sample_cameras(200, seed=0)[:, 7] / 1.7 for g in (level, above)]
    assert height[0].min() < -0.1 < 0.1 < height[0].max()
    # sin of the elevation is 2 / pi of the angle (EG3D's own parametrisation), negated.
    assert 2 / torch.pi * 0.1 <= height[1].min() and height[1].max() <= 2 / torch.pi * 0.7
    # The frontal view is one that was trained on.
    assert above.orbit(0.0, 0.0)[0, 7] == pytest.approx(1.7 * 2 / torch.pi * 0.4, abs=1e-5)
    assert level.orbit(0.0, 0.1)[0, 7] == pytest.approx(-1.7 * 2 / torch.pi * 0.1, abs=1e-5)
