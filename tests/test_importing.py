"""Importing: recognition, checks against the rebuilt network, names, reports; with a toy plugin."""

import dataclasses
import types

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from sat3d.errors import InputError, PluginError, UsageError
from sat3d.foreign import state_dict
from sat3d.hookspecs import hookimpl
from sat3d.importing import Conversion, default_name, import_file, number, shapes_of, whole_number
from sat3d.registry import discover, registered
from sat3d.specs import ImporterSpec
from sat3d.weights import load_weights, save_weights

NETWORK = nn.Linear(3, 2)


def convert(checkpoint):
    tensors = state_dict(checkpoint.root["linear"])
    header = {"kind": "generator", "architecture": "toy", "config": {"inputs": 3}}
    note = ("The file says little.",)
    return Conversion("toy checkpoint", tensors, shapes_of(NETWORK), header, 16, 5, note)


def recognise(checkpoint):
    return isinstance(checkpoint.root, dict) and "linear" in checkpoint.root


def toy(**changes):
    spec = ImporterSpec("toy", "toy files", recognise, convert)

    @hookimpl
    def register_importers(register):
        register(dataclasses.replace(spec, **changes))

    return registered("toy", types.SimpleNamespace(register_importers=register_importers))


@pytest.fixture
def checkpoint(tmp_path):
    """A file of the toy plugin."""
    path = tmp_path / "linear net.pt"
    torch.save({"linear": NETWORK.state_dict(), "step": 7}, path)
    return path


def test_an_importer_is_an_offer_like_any_other():
    with toy():
        offer = discover().importers["toy"]
        assert ("importer", offer) in discover().offers()


def test_a_checkpoint_becomes_weights_that_say_where_they_come_from(checkpoint, tmp_path):
    with toy():
        report = import_file(checkpoint, folder=tmp_path / "store", header={"licence": "mine"})
    tensors, header = load_weights(report.path)
    assert report.path == tmp_path / "store" / "linear-net.safetensors"
    assert torch.equal(tensors["weight"], NETWORK.weight)
    assert header["source"] == {
        "file": "linear net.pt",
        "sha256": report.sha256,
        "layout": "toy checkpoint",
    }
    assert (header["config"], header["licence"]) == ({"inputs": 3}, "mine")
    assert (report.architecture, report.resolution, report.style_channels) == ("toy", 16, 5)
    assert report.notes == ("The file says little.",)
    assert header["notes"] == ["The file says little."]


def test_weights_go_into_the_store_under_the_given_name(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("SAT3D_WEIGHTS", str(tmp_path / "mine"))
    with toy():
        assert import_file(checkpoint, "net").path == tmp_path / "mine" / "net.safetensors"
        with pytest.raises(UsageError, match="already exists"):
            import_file(checkpoint, "net")
        import_file(checkpoint, "net", overwrite=True)
        with pytest.raises(UsageError, match="cannot be a name"):
            import_file(checkpoint, "../net")


def test_half_precision_stays_and_double_precision_becomes_single(checkpoint, tmp_path):
    halves = {"weight": NETWORK.weight.half(), "bias": NETWORK.bias.double()}
    torch.save({"linear": halves}, checkpoint)
    with toy():
        path = import_file(checkpoint, folder=tmp_path).path
    from safetensors.torch import load_file

    assert {k: v.dtype for k, v in load_file(path).items()} == {
        "weight": torch.float16,
        "bias": torch.float32,
    }


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({"weight": torch.zeros(2, 3)}, "lacks 1 tensors for toy as configured, first 'bias'"),
        (
            {"weight": torch.zeros(2, 3), "bias": torch.zeros(2), "more": torch.zeros(1)},
            "has also 1 tensors .*first 'more'",
        ),
        (
            {"weight": torch.zeros(2, 4), "bias": torch.zeros(2)},
            r"'weight' has shape \[2, 4\]; toy as configured has \[2, 3\]",
        ),
        (
            {"weight": torch.full((2, 3), torch.nan), "bias": torch.zeros(2)},
            "'weight' has values that are no numbers",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_refused_and_nothing_is_written(
    checkpoint, tmp_path, tensors, reason
):
    torch.save({"linear": tensors}, checkpoint)
    with toy(), pytest.raises(InputError, match=reason):
        import_file(checkpoint, folder=tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_a_file_nobody_knows_is_described_and_the_known_ones_listed(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"a": torch.zeros(1)}, path)
    with toy(), pytest.raises(InputError, match=r"a dict of 1 entries \('a'\).*toy: toy files"):
        import_file(path, folder=tmp_path / "store")


def test_a_failing_importer_is_named(checkpoint, tmp_path):
    def fail(checkpoint):
        raise KeyError("x")

    with toy(convert=fail), pytest.raises(PluginError, match="importer 'toy' fails on .*KeyError"):
        import_file(checkpoint, folder=tmp_path)


def test_weights_of_ours_can_be_imported_from_elsewhere(tmp_path):
    def own(checkpoint):
        found = convert(dataclasses.replace(checkpoint, root={"linear": checkpoint.root}))
        return dataclasses.replace(found, header={**checkpoint.header, **found.header})

    path = tmp_path / "ours.safetensors"
    save_weights(path, NETWORK.state_dict(), {"architecture": "toy", "seed": 3})
    spec = {"recognise": lambda c: c.header.get("architecture") == "toy", "convert": own}
    with toy(**spec):
        report = import_file(path, "copy", folder=tmp_path)
    assert load_weights(report.path)[1]["seed"] == 3


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("network-snapshot-025000.pkl", "network-snapshot-025000"),
        ("ffhq (1).pkl", "ffhq--1-"),
        ("..hidden.pt", "hidden"),
        ("äöü.pt", "---"),
        ("x" * 150 + ".pt", "x" * 100),
    ],
)
def test_a_default_name_is_made_from_the_file(file, name, tmp_path):
    expected = name.lstrip("-") or "imported"
    assert default_name(tmp_path / file) == expected


@pytest.mark.parametrize("value", [None, "8", 7, 9.0, True, [8], 33])
def test_settings_out_of_range_are_refused(value):
    with pytest.raises(InputError, match=r"setting size is .*; allowed: 8 to 32"):
        whole_number({"size": value}, "size", 8, 32)


def test_settings_may_have_defaults():
    assert whole_number({}, "size", 8, 32, 16) == 16
    assert number({"scale": 1}, "scale", 0, 2) == 1
    with pytest.raises(InputError, match="scale is nan"):
        number({"scale": float("nan")}, "scale", 0, 2)
