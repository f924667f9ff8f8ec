"""``sat3d descriptors`` through the command line."""

import json

import pytest
import torch

from sat3d.cli.app import run
from sat3d.descriptors import json_schema
from sat3d.images import write_png

PACK = """\
name: mine
title: Mine
domain: heads
template: a face with {}
attributes:
  - name: hair
    title: Hair
    groups: [{name: color, phrases: [black hair, blond hair, red hair]}]
    region: {labels: [hair]}
"""


@pytest.fixture
def pack(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(PACK)
    return "./mine.yaml"


def told(capsys, *words: str):
    """What a command with --json prints."""
    assert run(["descriptors", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_list_has_the_bundled_packs_and_their_attributes(capsys):
    rows = {row["name"]: row for row in told(capsys, "list")}
    assert "beard" in rows["faces"]["attributes"]
    assert rows["faces"]["problem"] is None
    assert run(["descriptors", "list"]) == 0
    assert "hair_color" in capsys.readouterr().out


def test_a_broken_pack_of_a_plugin_is_listed_with_its_problem(installer, tmp_path, capsys):
    path = tmp_path / "broken.yaml"
    path.write_text("name: broken\n")
    installer.install(
        "sat3d-broken",
        "from pathlib import Path\nfrom sat3d import DescriptorSpec, hookimpl\n\n\n@hookimpl\n"
        "def register_descriptors(register):\n"
        f"    register(DescriptorSpec('broken', 'x', Path({str(path)!r})))\n",
    )
    rows = {row["name"]: row for row in told(capsys, "list")}
    assert "this key is missing" in rows["broken"]["problem"]
    assert run(["descriptors", "list"]) == 0
    assert "problem: pack 'broken': " in capsys.readouterr().out


def test_a_pack_is_shown_by_name_and_by_path(pack, capsys):
    assert told(capsys, "show", "faces")["name"] == "faces"
    assert told(capsys, "show", pack)["attributes"][0]["groups"][0]["phrases"][1] == "blond hair"
    assert run(["descriptors", "show", "faces"]) == 0
    text = capsys.readouterr().out
    assert "no beard | a moustache | a goatee | a full beard" in text
    assert "lower half" in text
    assert "40% or more read as 'glasses'" in text


def test_an_extending_pack_is_shown_whole(pack, tmp_path, capsys):
    (tmp_path / "more.yaml").write_text("extends: faces\nname: more\nwithout: [beard]\n")
    shown = told(capsys, "show", "more.yaml")
    assert [a["name"] for a in shown["attributes"]][-1] == "eyeglasses"
    assert "beard" not in [a["name"] for a in shown["attributes"]]


def test_a_good_pack_passes_and_a_bad_one_ends_with_2(pack, tmp_path, capsys):
    found = told(capsys, "check", pack, "--segmenter", "bisenet")
    assert found == {
        "pack": "mine", "valid": True, "attributes": ["hair"], "groups": 1, "phrases": 3,
    }  # fmt: skip
    (tmp_path / "mine.yaml").write_text(PACK.replace("labels: [hair]", "labels: [hairs]"))
    assert run(["descriptors", "check", pack]) == 0
    assert run(["descriptors", "check", pack, "--segmenter", "bisenet"]) == 2
    assert "Did you mean 'hair'?" in capsys.readouterr().err
    (tmp_path / "mine.yaml").write_text(PACK.replace("template", "templat"))
    assert run(["descriptors", "check", pack]) == 2
    assert "mine.yaml: templat: unknown key" in capsys.readouterr().err


def test_the_schema_is_printed_or_written(pack, tmp_path, capsys):
    assert run(["descriptors", "schema"]) == 0
    assert json.loads(capsys.readouterr().out) == json_schema()
    assert run(["descriptors", "schema", "--out", "schema.json"]) == 0
    assert json.loads((tmp_path / "schema.json").read_text()) == json_schema()
    assert run(["descriptors", "schema", "--out", "schema.json"]) == 2


def test_a_pack_is_tried_on_pictures(pack, tmp_path, capsys):
    for k, colour in enumerate(((-1.0, -1.0, -1.0), (1.0, 0.8, 0.0))):
        write_png(tmp_path / f"{k}.png", torch.tensor(colour)[:, None, None].expand(3, 32, 32))
    images = ["--image", "0.png", "--image", "1.png", "--clip", "sat3d-avatars"]
    found = told(capsys, "try", pack, *images, "--out", "read.png")
    assert found["images"] == 2
    assert found["clip"]["name"] == "sat3d-avatars"
    (group,) = found["groups"]
    assert sum(row["first"] for row in group["phrases"]) == 2
    assert len(group["readings"]) == 2
    assert (tmp_path / "read.png").stat().st_size > 1000
    assert run(["descriptors", "try", pack, *images, "--out", "read.png"]) == 2
    assert "already exists" in capsys.readouterr().err
    assert run(["descriptors", "try", pack, *images]) == 0
    text = capsys.readouterr().out
    assert "blond hair" in text
    assert "2 images" in text


def test_trying_needs_something_to_look_at(pack, capsys):
    assert run(["descriptors", "try", pack]) == 2
    assert "Add --image FILE or --generator" in capsys.readouterr().err
    assert run(["descriptors", "try", pack, "--image", "none.png", "--clip", "sat3d-avatars"]) == 2
    assert "cannot read picture 'none.png'" in capsys.readouterr().err


def test_words_that_say_the_same_get_a_warning(pack, tmp_path, capsys):
    same = PACK.replace("[black hair, blond hair, red hair]", "[red hair, Red hair]")
    (tmp_path / "mine.yaml").write_text(same)
    write_png(tmp_path / "0.png", torch.zeros(3, 32, 32))
    words = ["try", pack, "--image", "0.png", "--clip", "sat3d-avatars"]
    assert "too flat" in told(capsys, *words)["groups"][0]["warnings"][0]
    assert run(["descriptors", *words]) == 0
    assert "warning: hair: color: too flat" in capsys.readouterr().out
