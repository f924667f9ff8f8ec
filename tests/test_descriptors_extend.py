"""Packs that extend others, the JSON Schema, and the copy of it in the docs."""

import json
from pathlib import Path

import pytest

from sat3d.descriptors import MAX_DEPTH, load_pack, parse_pack
from sat3d.errors import PackError, UsageError, unknown_name

BASE = """\
name: shapes
title: Shapes
domain: toys
version: 7
template: a drawing of {}
attributes:
  - name: colour
    title: Colour
    groups: [{name: hue, phrases: [red, blue]}]
    region: {labels: [body], cut: upper}
    preselect: {share: 0.5, strength: 3}
  - name: lid
    title: Lid
    groups: [{name: there, phrases: [open, shut]}]
pool:
  exclude: [{name: broken, phrases: [whole, broken], phrase: broken}]
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "base.yaml").write_text(BASE)
    return tmp_path


def extended(folder: Path, text: str, extends: str = "base.yaml", **names: Path):
    """The pack 'more' with this text, extending ``extends``; ``names`` are installed packs."""

    def find(name: str) -> Path:
        if name not in names:
            raise UsageError(unknown_name("descriptor pack", name, names))
        return names[name]

    path = folder / "more.yaml"
    path.write_text(f"extends: {extends}\nname: more\n{text}")
    return load_pack(path, find)


def refused(folder: Path, text: str, extends: str = "base.yaml", **names: Path) -> str:
    with pytest.raises(PackError) as caught:
        extended(folder, text, extends, **names)
    line = str(caught.value)
    assert "\n" not in line
    return line.replace(f"{folder}/", "")


def test_what_is_not_said_is_the_other_packs(folder):
    base, pack = load_pack(folder / "base.yaml"), extended(folder, "")
    assert pack == base.model_copy(update={"name": "more", "version": 1})


def test_an_attribute_of_the_same_name_changes_only_what_it_says(folder):
    text = "attributes: [{name: colour, groups: [{name: hue, phrases: [pink, grey]}]}]"
    pack, base = extended(folder, text), load_pack(folder / "base.yaml")
    assert pack.attributes[0].groups[0].phrases == ("pink", "grey")
    assert pack.attributes[0].region == base.attributes[0].region
    assert pack.attributes[0].preselect.strength == 3
    assert pack.attributes[1] == base.attributes[1]


def test_an_empty_region_takes_the_region_away(folder):
    pack = extended(folder, "attributes: [{name: colour, region: }]")
    assert pack.attributes[0].region is None


def test_new_attributes_come_last_and_others_can_be_left_out(folder):
    text = """\
without: [colour]
attributes:
  - {name: size, title: Size, groups: [{name: size, phrases: [small, large]}]}
pool: {}
template: a photo of {}
"""
    pack = extended(folder, text)
    assert pack.names == ("lid", "size")
    assert pack.pool.exclude == ()
    assert pack.prompt("x") == "a photo of x"


def test_an_installed_pack_is_extended_by_name(folder):
    (folder / "inner").mkdir()
    pack = extended(folder / "inner", "title: More", "shapes", shapes=folder / "base.yaml")
    assert (pack.title, pack.domain) == ("More", "toys")


def test_packs_extend_one_another_in_a_row(folder):
    for k in range(MAX_DEPTH):
        below = f"p{k - 1}.yaml" if k else "base.yaml"
        (folder / f"p{k}.yaml").write_text(f"extends: {below}\nname: p{k}\n")
    assert load_pack(folder / f"p{MAX_DEPTH - 1}.yaml").names == ("colour", "lid")
    assert f"more than {MAX_DEPTH} packs" in refused(folder, "", f"p{MAX_DEPTH - 1}.yaml")


def test_what_was_merged_no_longer_extends_anything(folder):
    data = extended(folder, "").model_dump(mode="json")
    assert "extends" not in data
    assert parse_pack(data, "header").names == ("colour", "lid")
    with pytest.raises(PackError, match="extends: unknown key"):
        parse_pack({**data, "extends": "base.yaml"}, "header")


@pytest.mark.parametrize(
    "path",
    ["../base.yaml", "/etc/passwd.yaml", "inner/../../base.yaml", "link.yaml", '"a\\0b.yaml"'],
)
def test_a_path_never_leads_out_of_the_folder(folder, path):
    (folder / "own" / "inner").mkdir(parents=True)
    (folder / "own" / "link.yaml").symlink_to(folder / "base.yaml")
    assert "leads out of the folder" in refused(folder / "own", "", path)


def test_a_circle_is_refused_and_named(folder):
    assert "in a circle: 'more.yaml' -> 'more.yaml'" in refused(folder, "", "more.yaml")
    (folder / "other.yaml").write_text("extends: more.yaml\nname: other\n")
    line = refused(folder, "", "other.yaml")
    assert "'more.yaml' -> 'other.yaml' -> 'more.yaml'" in line
    more = folder / "more.yaml"
    assert "in a circle" in refused(folder, "", "self", self=more)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("atributes: []", "more.yaml: atributes: unknown key (found []). Did you mean"),
        ("without: [color]", "without[0]: unknown attribute 'color'. Did you mean 'colour'?"),
        ("attributes: [{name: color}]", "attributes[0]: pack 'shapes' has none like it"),
        ("attributes: [{nam: colour}]", "attributes[0].nam: unknown key"),
        ("attributes: [{name: lid, title: Colour}]", "answer to the name or title 'colour'"),
        ("attributes: [{name: lid, groups: []}]", "groups: must have at least 1 item"),
        ("attributes: [{name: lid}, {name: lid}]", "attributes[1].name: 'lid' is already taken"),
        ("template: nothing", "template: must contain {} exactly once"),
        ("without: [colour, lid]", "attributes: must have at least 1 item"),
        ("title: ''", "title: must have at least 1 character"),
    ],
)
def test_errors_name_the_extending_file(folder, text, expected):
    line = refused(folder, text)
    assert line.startswith("more.yaml: ")
    assert expected in line


def test_what_is_extended_must_be_said_in_one_word(folder):
    assert "extends: must be a valid string" in refused(folder, "", "[base.yaml]")
    assert "extends: must be a valid string" in refused(folder, "", "")


def test_errors_of_the_other_pack_name_its_own_file(folder):
    (folder / "base.yaml").write_text(BASE.replace("domain: toys", "domian: toys"))
    assert refused(folder, "").startswith(f"{(folder / 'base.yaml').resolve()}: domian".replace(
        f"{folder}/", ""
    ))  # fmt: skip
    assert "extends: unknown descriptor pack 'shape'" in refused(
        folder, "", "shape", shapes=folder / "base.yaml"
    )
    assert "cannot read pack" in refused(folder, "", "none.yaml")


def test_every_bundled_pack_fits_the_schema_by_its_keys():
    from sat3d.descriptors import DescriptorPack, Extension, json_schema

    schema = json_schema()
    whole = schema["$defs"]["DescriptorPack"]
    assert set(whole["properties"]) == set(DescriptorPack.model_fields)
    assert set(whole["required"]) == {"name", "title", "domain", "template", "attributes"}
    change = schema["$defs"]["Extension"]
    assert set(change["properties"]) == set(Extension.model_fields)
    assert set(change["required"]) == {"name", "extends"}
    assert whole["additionalProperties"] is change["additionalProperties"] is False


def test_the_published_schema_is_the_programs():
    from sat3d.descriptors import json_schema

    published = Path(__file__).parents[1] / "docs" / "descriptor-pack.schema.json"
    assert json.loads(published.read_text()) == json_schema(), (
        "run: sat3d descriptors schema --out docs/descriptor-pack.schema.json --overwrite"
    )
