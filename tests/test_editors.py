"""Methods of editing by name, and the pool that they learn from."""

import re
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import sat3d
from sat3d.editors import draw_pool, load_editor, parse_method, typed_options, values_of
from sat3d.errors import PluginError, UsageError
from sat3d.hookspecs import hookimpl
from sat3d.interfaces import Bench, Codes, Editor
from sat3d.progress import SILENT
from sat3d.registry import discover
from sat3d.specs import EditorSpec
from sat3d.testing import STRIPES, ToyGenerator, ToyMeasure, toy_pack

PACK = toy_pack()
SIZES = {a.name: [len(g.phrases) for g in a.groups] for a in PACK.attributes}


class Still(Editor):
    name = "still"
    intensities = (0.0,)

    def __init__(self, options: Mapping[str, str]) -> None:
        self.options = typed_options(self.name, options, steps=3, speed=0.5, where="here")

    def fit(self, bench: Bench) -> Mapping[str, Any]:
        return {}

    def edit(self, source: Codes, reference: Codes, attribute: str, intensity: float) -> Tensor:
        return source.styles


class Plugin:
    def __init__(self, load: Callable[[Mapping[str, str]], Any] = Still) -> None:
        self.load = load

    @hookimpl
    def register_editors(self, register: Callable[[EditorSpec], None]) -> None:
        register(EditorSpec("still", "does nothing", self.load))


@pytest.fixture(autouse=True)
def _only_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAT3D_PLUGINS", "")


@pytest.mark.parametrize(
    ("text", "name", "options"),
    [
        ("still", "still", {}),
        (" still : steps = 4 , where=a:b ", "still", {"steps": "4", "where": "a:b"}),
        ("still:", "still", {}),
    ],
)
def test_a_method_is_a_name_with_options(text: str, name: str, options: dict[str, str]) -> None:
    found, known = parse_method(text)
    assert (found.strip(), known) == (name, options)


@pytest.mark.parametrize("text", ["", ":a=1", "x:a", "x:=1", "x:a=1,a=2"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_method(text)


def test_options_take_the_type_of_their_default() -> None:
    editor = load_editor("still:steps=4,where=there", discover([("p", Plugin())]))
    assert isinstance(editor, Still)
    assert editor.options == {"steps": 4, "speed": 0.5, "where": "there"}


def test_an_unknown_method_names_the_known_ones() -> None:
    with pytest.raises(UsageError, match="unknown editor 'stil'. Did you mean 'still'"):
        load_editor("stil", discover([("p", Plugin())]))


def test_a_plugin_that_fails_or_loads_something_else_is_named() -> None:
    def fail(options: Mapping[str, str]) -> Editor:
        raise ZeroDivisionError("oops")

    with pytest.raises(PluginError, match=r"plugin 'p' .* cannot load editor 'still': oops"):
        load_editor("still", discover([("p", Plugin(fail))]))
    with pytest.raises(PluginError, match="as a int, not a sat3d.Editor"):
        load_editor("still", discover([("p", Plugin(lambda options: 3))]))


def test_the_pool_holds_codes_that_belong_together_and_what_they_show() -> None:
    generator = ToyGenerator(is_3d=True)
    measure = ToyMeasure(PACK)
    pool = draw_pool(generator, measure, SIZES, 10, seed=3, batch=4)
    assert len(pool) == 10
    assert pool.w is not None
    assert torch.allclose(generator.styles(pool.w), pool.styles)
    image = generator.render(pool.styles, pool.cameras, draft=True).image
    found = values_of(measure, SIZES, image)
    for name in STRIPES:
        assert torch.allclose(pool.values[name][0], found[name][0], atol=1e-6)  # other batches
    other = draw_pool(generator, measure, SIZES, 10, seed=4)
    assert not torch.equal(other.styles, pool.styles)


def test_without_a_text_image_model_nothing_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = ToyGenerator()
    monkeypatch.setattr(generator, "render", None)
    pool = draw_pool(generator, None, SIZES, 5)
    assert len(pool) == 5
    assert pool.values == {}
    assert pool.cameras is None


def test_codes_are_taken_by_place_with_all_that_is_known_of_them() -> None:
    pool = draw_pool(ToyGenerator(is_3d=True), ToyMeasure(PACK), SIZES, 6)
    some = pool[torch.tensor([4, 1])]
    assert torch.equal(some.styles, pool.styles[[4, 1]])
    assert pool.w is not None
    assert some.w is not None
    assert torch.equal(some.w, pool.w[[4, 1]])
    assert torch.equal(some.values["top"][0], pool.values["top"][0][[4, 1]])
    assert len(pool[slice(0, 2)]) == 2


DOCS = Path(__file__).parents[1] / "docs"


def _blocks(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(), re.M | re.S)


def test_the_method_on_the_plugin_page_works_as_it_stands_there() -> None:
    code = next(block for block in _blocks("write-a-plugin.md") if "class MixEditor" in block)
    module = types.ModuleType("mix")
    exec(code, vars(module))
    catalogue = discover([("mix", module)])
    assert catalogue.problems == ()
    editor = load_editor("mix:share=0.25", catalogue)
    one, two = Codes(torch.zeros(2, 3)), Codes(torch.ones(2, 3))
    editor.fit(Bench(ToyGenerator(), PACK, one, SILENT))
    assert editor.edit(one, two, "top", 2.0).tolist() == [[0.5] * 3] * 2


def test_the_names_on_the_evaluation_page_exist() -> None:
    for block in _blocks("evaluation.md"):
        exec("\n".join(x for x in block.splitlines() if x.startswith(("import", "from"))), {})
        for name in re.findall(r"\bsat3d\.(\w+)\(", block):
            assert hasattr(sat3d, name), name
