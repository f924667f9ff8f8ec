"""Descriptor packs: what is accepted, and that every error says where and what to do."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from sat3d.descriptors import DescriptorPack, load_pack, parse_pack
from sat3d.errors import PackError

TEXT = """\
name: shapes
title: Shapes
domain: toys
template: a drawing of {}
attributes:
  - name: colour
    title: Main colour
    groups:
      - name: hue
        phrases: [a red thing, a blue thing]
    region: {labels: [body, lid], cut: upper, grow: 0.1}
    preselect: {share: 0.25, strength: 2}
  - name: lid
    title: Lid
    groups:
      - name: there
        phrases: [no, yes]
pool:
  exclude:
    - {name: broken, phrases: [whole, broken], phrase: broken, above: 0.4}
  quotas:
    - {name: lid, phrases: [no lid, a lid], phrase: a lid, share: 0.5}
"""


@pytest.fixture
def pack() -> DescriptorPack:
    return parse_pack(yaml.safe_load(TEXT.replace("[no, yes]", "['no', 'yes']")), "text")


def message(tmp_path: Path, text: str | bytes) -> str:
    """The error for a file of this text, less the file's name."""
    path = tmp_path / "pack.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(PackError) as caught:
        load_pack(path)
    line = str(caught.value)
    assert str(path) in line
    assert "\n" not in line
    return line.replace(str(path), "FILE")


def test_a_pack_says_in_yaml_what_the_model_holds(tmp_path, pack):
    path = tmp_path / "pack.yaml"
    path.write_text(TEXT)
    assert load_pack(path) == pack
    assert pack.names == ("colour", "lid")
    assert pack.attributes[0].preselect.share == 0.25
    assert pack.attributes[1].region is None
    assert pack.prompt("a lid") == "a drawing of a lid"


def test_words_like_no_and_yes_stay_words(tmp_path):
    path = tmp_path / "pack.yaml"
    path.write_text(TEXT)
    assert load_pack(path).attributes[1].groups[0].phrases == ("no", "yes")


def test_a_pack_survives_json(pack):
    data = json.loads(json.dumps(pack.model_dump(mode="json")))
    assert parse_pack(data, "header") == pack


@pytest.mark.parametrize("name", ["colour", "Main colour", "MAIN-COLOUR", " main  colour "])
def test_attributes_are_found_by_name_or_title(pack, name):
    assert pack.index(name) == 0


def test_an_unknown_attribute_names_the_nearest(pack):
    with pytest.raises(PackError, match=r"unknown attribute 'color'\. Did you mean 'colour'\?"):
        pack.index("color")


def test_labels_the_segmenter_lacks_are_refused_with_their_key_path(pack):
    pack.check_labels(("body", "lid"), "toy")
    with pytest.raises(PackError, match=r"attributes\[0\]\.region\.labels\[1\].*Did you mean 'li'"):
        pack.check_labels(("body", "li"), "toy")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "title: Lid",
            "titel: Lid",
            "FILE: attributes[1].titel: unknown key (found 'Lid'). Did you mean 'title'? "
            "Allowed: name, title, groups, region, preselect. (and 1 more)",
        ),
        ("pool:", "Pool:", "FILE: Pool: unknown key (found {"),
        ("quotas:", "quota:", "FILE: pool.quota: unknown key"),
        (
            "cut: upper",
            "cut: uper",
            "region.cut: must be one of none, upper, lower (found 'uper').",
        ),
        ("cut: upper", "cut: uper", "Did you mean 'upper'?"),
        ("share: 0.25", "share: lots", "attributes[0].preselect.share: must be a valid number"),
        ("share: 0.25", "share: true", "(found 'true')"),
        ("share: 0.25", "share: 1.5", "must be less than or equal to 1 (found '1.5')"),
        ("share: 0.25", "share: .nan", "attributes[0].preselect.share: must be"),
        ("grow: 0.1", "grow: nan", "attributes[0].region.grow: must be"),
        ("name: shapes", "version: 0x" + "f" * 9000 + "\nname: shapes", "FILE: version: must be"),
        ("name: shapes", "version: 2024-99-99\nname: shapes", "FILE: version: must be"),
        ("name: shapes", "name: Shapes", "FILE: name: must be lower-case letters, digits and _"),
        ("name: shapes\n", "", "FILE: name: this key is missing. Add it."),
        ("title: Shapes", "title: ' '", "FILE: title: must have at least 1 character"),
        ("title: Shapes", "title:", "FILE: title: must be a valid string (found None)"),
        ("of {}", "of it", "FILE: template: must contain {} exactly once, and 'a drawing of it'"),
        ("[a red thing, a blue thing]", "a red thing", "groups[0].phrases: must be a list"),
        ("[a red thing, a blue thing]", "[red]", "groups[0].phrases: must have at least 2 items"),
        ("[a red thing, a blue thing]", "[red, ' red']", "'red' is there twice"),
        ("[a red thing, a blue thing]", "[red, [blue]]", "phrases[1]: must be a valid string"),
        ("{labels: [body, lid], cut: upper, grow: 0.1}", "body", "keys labels, cut, grow (found"),
        (
            "name: lid\n    title",
            "name: colour\n    title",
            "attributes[1].name: 'colour' is already",
        ),
        (
            "name: lid\n    title",
            "name: others\n    title",
            "attributes[1].name: 'others' is reserved",
        ),
        (
            "title: Lid",
            "title: Colour",
            "attributes: two of them answer to the name or title 'colour'",
        ),
        (
            "phrase: broken,",
            "phrase: brokn,",
            "pool.exclude[0]: unknown phrase 'brokn'. Did you mean",
        ),
    ],
)
def test_an_error_names_file_key_path_value_and_remedy(tmp_path, old, new, expected):
    assert TEXT.count(old) >= 1
    assert expected in message(tmp_path, TEXT.replace(old, new, 1))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "must be a mapping with the keys name, title"),
        ("- a\n- b", "must be a mapping with the keys name, title"),
        ("a: &x [1]\nb: *x", "line 2: aliases are not allowed"),
        ("title: a\ntitle: b", "line 2: key 'title' is there twice"),
        ("? [a]\n: b", "line 1: a key must be a word"),
        ("5: b", "FILE: 5: unknown key"),
        ("a: [1", "is not YAML: line 1"),
        ("a: b\n---\nc: d", "is not YAML: line 2"),
        ("\x00", "is not YAML"),
        (b"\xff\xfe\x00a", "is not YAML: 'utf-8' codec"),
        ("[" * 100_000, "nested too deeply"),
        ("{a: " * 30_000, "nested too deeply"),
        ("x" * 300_000, "larger than"),
    ],
)
def test_hostile_text_is_one_clear_line(tmp_path, text, expected):
    assert expected in message(tmp_path, text)


def test_tags_create_no_objects(tmp_path):
    marker = tmp_path / "made"
    text = f"name: !!python/object/apply:os.mkdir ['{marker}']"
    assert "FILE: name: must be a valid string" in message(tmp_path, text)
    assert not marker.exists()


@pytest.mark.parametrize("path", ["/dev/zero", "no/such.yaml", ".", "zero\0byte.yaml"])
def test_what_is_no_file_is_refused(path):
    with pytest.raises(PackError, match=r"is not a file|cannot read"):
        load_pack(Path(path))


@pytest.mark.parametrize("junk", [None, 5, "text", [], {"attributes": 5}, {"attributes": [[]]}])
def test_plain_data_of_any_shape_is_refused_without_a_traceback(junk):
    with pytest.raises(PackError, match="header: "):
        parse_pack(junk, "header")


def test_every_value_of_a_good_pack_can_be_spoilt_without_a_traceback(pack):
    """Each leaf and branch replaced by each of five wrong things: accepted or a PackError."""
    good = pack.model_dump(mode="json")
    refused = 0
    for path in _paths(good):
        for junk in (None, 7, "junk", [], {"a": [{}]}):
            data = copy.deepcopy(good)
            holder = data
            for key in path[:-1]:
                holder = holder[key]
            holder[path[-1]] = junk
            try:
                parse_pack(data, "header")
            except PackError as error:
                refused += 1
                assert str(error).startswith("header: ")
    assert refused > 100


def _paths(data: Any) -> list[tuple[Any, ...]]:
    items = data.items() if isinstance(data, dict) else enumerate(data)
    paths: list[tuple[Any, ...]] = []
    for key, value in items:
        paths.append((key,))
        if isinstance(value, dict | list):
            paths.extend((key, *rest) for rest in _paths(value))
    return paths
