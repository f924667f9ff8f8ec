"""Discovery: what is found, what goes wrong with a plugin, and what it must not take down."""

import types
from pathlib import Path

import pytest
import torch

from sat3d import registry
from sat3d.errors import PackError, PluginError, UsageError
from sat3d.hookspecs import hookimpl
from sat3d.registry import Problem, discover, load_generator, load_pack, registered
from sat3d.specs import DescriptorSpec, GeneratorSpec

GOOD = """
from sat3d import GeneratorSpec, hookimpl

def load(weights, device):
    return None

@hookimpl
def register_generators(register):
    register(GeneratorSpec("{name}", "a generator", load))
"""


def offering(name: str, load: object = None) -> types.SimpleNamespace:
    """A plugin object that offers one generator."""

    @hookimpl
    def register_generators(register):  # type: ignore[no-untyped-def]
        register(GeneratorSpec(name, "a generator", load))  # type: ignore[arg-type]

    return types.SimpleNamespace(register_generators=register_generators)


def only_problem(name: str) -> Problem:
    """The one problem of a plugin; the bundled plugins must be whole beside it."""
    catalogue = discover()
    assert "faces" in catalogue.descriptors
    mine = [problem for problem in catalogue.problems if problem.plugin == name]
    assert len(mine) == 1, catalogue.problems
    return mine[0]


def test_a_third_party_plugin_is_found_with_its_distribution_and_version(installer):
    installer.install("sat3d-cars", GOOD.format(name="cars"), version="2.3")
    offer = discover().generator("cars")
    assert (offer.plugin, offer.distribution, offer.version) == ("sat3d_cars", "sat3d-cars", "2.3")


def test_bundled_plugins_use_the_same_entry_points():
    offer = discover().descriptor("faces")
    assert (offer.plugin, offer.distribution) == ("descriptors", "sat3d")


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import no_such_module_at_all", "ModuleNotFoundError: No module named"),
        ("def broken(:", "SyntaxError"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("x = 1", "implements no hook"),
        (
            GOOD.format(name="x").replace("register_generators", "register_generator"),
            "unknown hook",
        ),
        (GOOD.format(name="x").replace("(register)", "(register, extra)"), "extra"),
        (
            GOOD.format(name="x") + "    raise RuntimeError('oh\\nno')",
            "failed: RuntimeError: oh no",
        ),
        (
            GOOD.format(name="x").replace('GeneratorSpec("x",', 'dict(a="x") or ('),
            "not a Generator",
        ),
        (GOOD.format(name=""), "needs a name"),
    ],
)
def test_a_broken_plugin_is_recorded_with_its_reason_and_offers_nothing(installer, code, reason):
    installer.install("sat3d-bad", code)
    problem = only_problem("sat3d_bad")
    assert reason in problem.reason
    assert "\n" not in problem.reason
    assert (problem.distribution, problem.version) == ("sat3d-bad", "1.0")
    assert "x" not in discover().generators


def test_a_broken_plugin_is_fatal_only_when_it_is_asked_for(installer):
    installer.install("sat3d-bad", "import no_such_module_at_all", point="cars")
    assert discover().descriptor("faces")
    with pytest.raises(PluginError, match=r"cars.*sat3d-bad 1\.0.*no_such_module_at_all"):
        discover().generator("cars")


def test_an_unknown_name_lists_the_nearest_and_the_plugins_that_failed(installer):
    installer.install("sat3d-bad", "import no_such_module_at_all")
    with pytest.raises(UsageError, match=r"Did you mean 'faces'\?.*Not usable:.*sat3d_bad"):
        discover().descriptor("face")


def test_of_two_equal_names_the_bundled_one_stays_and_both_distributions_are_named(installer):
    code = """
from pathlib import Path
from sat3d import DescriptorSpec, hookimpl

@hookimpl
def register_descriptors(register):
    register(DescriptorSpec("faces", "mine", Path("mine.yaml")))
    register(DescriptorSpec("boats", "mine too", Path("boats.yaml")))
"""
    installer.install("a-first-in-the-alphabet", code)
    problem = only_problem("a_first_in_the_alphabet")
    assert "a-first-in-the-alphabet 1.0" in problem.reason
    assert "of sat3d 0" in problem.reason
    catalogue = discover()
    assert catalogue.descriptor("faces").distribution == "sat3d"
    assert catalogue.descriptor("boats").distribution == "a-first-in-the-alphabet"


def test_two_distributions_with_the_same_entry_point_name_are_both_loaded(installer):
    installer.install("sat3d-one", GOOD.format(name="one"), point="same")
    installer.install("sat3d-two", GOOD.format(name="two"), point="same")
    assert {"one", "two"} <= discover().generators.keys()


def test_damaged_metadata_of_one_distribution_hides_no_other(installer):
    installer.install("sat3d-cars", GOOD.format(name="cars"))
    installer.install("sat3d-bad", "")
    damaged = installer.folder / "sat3d_bad-1.0.dist-info" / "entry_points.txt"
    damaged.write_text("[sat3d]\nno equals sign here\n")
    catalogue = discover()
    assert "cars" in catalogue.generators
    assert "faces" in catalogue.descriptors
    assert any("sat3d-bad" in p.distribution for p in catalogue.problems)


def test_sat3d_plugins_limits_what_is_loaded(installer, monkeypatch):
    installer.install("sat3d-cars", GOOD.format(name="cars"))
    monkeypatch.setenv("SAT3D_PLUGINS", "sat3d_cars")
    catalogue = discover()
    assert list(catalogue.generators) == ["cars"]
    assert not catalogue.descriptors
    assert not catalogue.problems


def test_a_wrong_name_in_sat3d_plugins_is_reported(monkeypatch):
    monkeypatch.setenv("SAT3D_PLUGINS", "descriptor")
    (problem,) = discover().problems
    assert "Did you mean 'descriptors'?" in problem.reason


def test_objects_registered_by_hand_are_offered_inside_the_block_only():
    with registered("toy", offering("toy")):
        assert discover().generator("toy").distribution == registry.BY_HAND
    assert "toy" not in discover().generators
    assert "toy" in discover(extra=[("toy", offering("toy"))]).generators


def test_loading_passes_weights_and_device_and_checks_what_comes_back():
    seen = []

    def load(weights: str | None, device: torch.device) -> object:
        seen.append((weights, device))
        return "no generator"

    with (
        registered("toy", offering("toy", load)),
        pytest.raises(PluginError, match=r"'toy' as a str, not a sat3d.Generator"),
    ):
        load_generator("toy", weights=Path("w.safetensors"), device="cpu")
    assert seen == [("w.safetensors", torch.device("cpu"))]


def test_an_exception_while_loading_names_the_plugin():
    def load(weights: str | None, device: torch.device) -> object:
        raise KeyError("backbone")

    with (
        registered("toy", offering("toy", load)),
        pytest.raises(PluginError, match=r"plugin 'toy' \(by hand\) cannot load.*backbone"),
    ):
        load_generator("toy", device="cpu")


@pytest.mark.parametrize("device", ["cpuu", "cuda:99", ""])
def test_a_device_that_cannot_be_used_is_one_line(device):
    with pytest.raises(UsageError, match="Use 'cpu'") as caught:
        registry.resolve_device(device)
    assert "\n" not in str(caught.value)


def test_packs_load_by_name_and_by_path(tmp_path):
    pack = load_pack("faces")
    copy = tmp_path / "mine.yaml"
    copy.write_text(discover().descriptor("faces").spec.path.read_text())
    assert load_pack(copy) == load_pack(str(copy)) == pack
    with pytest.raises(UsageError, match="Did you mean 'faces'"):
        load_pack("facse")
    with pytest.raises(PackError, match="No such file"):
        load_pack("facse.yaml")


def test_a_pack_spec_is_only_read_when_it_is_asked_for():
    @hookimpl
    def register_descriptors(register):  # type: ignore[no-untyped-def]
        register(DescriptorSpec("gone", "no file", Path("gone.yaml")))

    plugin = types.SimpleNamespace(register_descriptors=register_descriptors)
    with registered("gone", plugin):
        assert discover().descriptor("gone")
        with pytest.raises(PackError, match=r"gone\.yaml"):
            load_pack("gone")
