"""Lists of published weights: the bundled ones, and what is wrong with others."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from sat3d.errors import InputError, UsageError
from sat3d.hookspecs import hookimpl
from sat3d.registry import discover
from sat3d.specs import WeightsListSpec
from sat3d.weights_list import collect, load_list, lookup, published

ENTRY = """
  - name: one
    title: One
    domain: stripes
    file: one.pkl
    addresses: [https://example.org/one.pkl]
    page: https://example.org/
    licence: MIT
    licence_url: https://example.org/licence
    commercial: yes
"""
GOOD = f"kind: generator\nplugin: toy\nweights:{ENTRY}"


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def offering(path: Path, name: str = "mine") -> SimpleNamespace:
    @hookimpl
    def register_weights(register):
        register(WeightsListSpec(name, "a list", path))

    return SimpleNamespace(register_weights=register_weights)


def test_every_bundled_list_is_valid_and_names_what_exists():
    catalogue = discover()
    found = collect(catalogue)
    assert found.problems == []
    for listed in found.entries.values():
        offers = catalogue.generators if listed.kind == "generator" else catalogue.segmenters
        assert listed.plugin in offers
        roles = listed.entry.goes_with
        assert roles.get("segmenter", "none") in {"none", *catalogue.segmenters}
        assert roles.get("segmenter_weights", listed.entry.name) in found.entries
        assert roles.get("descriptors", "faces") in catalogue.descriptors
        assert (listed.entry.cameras is not None) == (listed.plugin == "eg3d")


def test_the_published_sizes_and_hashes_are_the_verified_ones():
    entries = {name: listed.entry for name, listed in published().items()}
    face = entries["bisenet-celebamask"]
    assert face.size == 53289463
    assert face.sha256 is not None
    assert face.sha256.startswith("468e13ca") and face.sha256.endswith("94b26567")
    assert entries["stylegan2-e4e-ffhq"].size == 1201649680
    for name in ("deeplabv3-resnet50-coco", "deeplabv3-resnet101-coco"):
        # torchvision writes the first digits into the file's name.
        assert entries[name].sha256 == entries[name].file.rpartition("-")[2][:8]


def test_the_published_addresses_of_torchvision_are_its_own():
    from torchvision.models import segmentation

    for depth in (50, 101):
        entry = published()[f"deeplabv3-resnet{depth}-coco"].entry
        own = getattr(segmentation, f"DeepLabV3_ResNet{depth}_Weights").DEFAULT
        assert entry.addresses == (own.url,)


def test_nvidias_weights_are_not_for_commercial_use():
    for listed in published().values():
        if "NVIDIA" in listed.entry.licence or listed.plugin in ("eg3d", "stylegan2"):
            assert listed.entry.commercial == "no"


def test_the_header_carries_what_the_file_cannot_say():
    header = published()["eg3d-afhqcats512-128"].entry.header()
    assert header["cameras"]["pivot"] == (0.0, 0.0, -0.06)
    assert header["goes_with"]["segmenter_weights"] == "deeplabv3-resnet101-coco"
    assert "non-commercial" in header["licence"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("weights: [1", "is not YAML"),
        ("- 1", "must be|Input"),
        (GOOD.replace("    licence: MIT\n", ""), r"weights\[0\].licence: this key is missing"),
        (GOOD.replace("licence:", "license:"), "unknown key. Did you mean 'licence'"),
        (GOOD.replace("plugin:", "plugins:"), "plugins: unknown key. Did you mean 'plugin'"),
        (GOOD.replace("name: one", "name: ../one"), "cannot be a name of weights"),
        (GOOD.replace("file: one.pkl", "file: ../one.pkl"), r"weights\[0\].file"),
        (GOOD.replace("file: one.pkl", "file: .one"), r"weights\[0\].file"),
        (GOOD.replace("[https:", "[ftp:"), r"addresses\[0\]: must be an address"),
        (GOOD.replace("[https://example.org/one.pkl]", "[file:///etc/passwd]"), "must be an addr"),
        (GOOD.replace("commercial: yes", "commercial: maybe"), "weights.0..commercial"),
        (GOOD + "    size: -1\n", "size"),
        (GOOD + "    sha256: xyz\n", "sha256"),
        (GOOD + "    goes_with: {clop: x}\n", "goes_with"),
        (GOOD + "    cameras: {radius: 1, fokal: 2}\n", "unknown key. Did you mean 'focal'"),
        (GOOD + ENTRY.lstrip("\n"), r"weights\[1\].name: 'one' is there twice"),
    ],
)
def test_a_wrong_list_is_refused_with_file_and_key_path(tmp_path, text, reason):
    path = write(tmp_path / "w.yaml", text)
    with pytest.raises(InputError, match=reason) as raised:
        load_list(path)
    assert "w.yaml" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_broken_list_is_a_problem_and_hides_nothing(tmp_path):
    bad = offering(write(tmp_path / "bad.yaml", "kind: x"), "bad")
    good = offering(write(tmp_path / "good.yaml", GOOD), "good")
    found = collect(discover([("bad", bad), ("good", good)]))
    assert found.entries["one"].plugin == "toy"
    assert "bisenet-celebamask" in found.entries
    assert len(found.problems) == 1
    assert "plugin 'bad' (by hand)" in found.problems[0]


def test_a_name_that_is_taken_stays_with_the_first(tmp_path):
    text = GOOD.replace("name: one", "name: bisenet-celebamask")
    found = collect(discover([("mine", offering(write(tmp_path / "w.yaml", text)))]))
    assert found.entries["bisenet-celebamask"].plugin == "bisenet"
    assert "already listed for 'bisenet'" in found.problems[0]


def test_an_unknown_name_is_told_with_the_nearest():
    with pytest.raises(UsageError, match="Did you mean 'stylegan2-ffhq'"):
        lookup("stylegan2-ffhg")
