"""The docs agree with the program. ``python tests/test_docs.py`` writes the generated tables."""

import importlib
import inspect
import json
import re
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
import typer

import sat3d
from sat3d import hookspecs, testing
from sat3d.cli.app import app
from sat3d.descriptors import Attribute, DescriptorPack, Exclude, Group, Preselect, Quota, Region
from sat3d.settings import PRESETS, TrainSettings, describe

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
REFERENCE = DOCS / "reference.md"
PAGES = [
    *(ROOT / x / "README.md" for x in (".", "recipes", "examples/figures", "examples/flowers")),
    *sorted(DOCS.glob("*.md")),
]
TOP = typer.main.get_command(app).commands
HOOKS = {name: f for name, f in vars(hookspecs).items() if name.startswith("register_")}


def leaves(commands: dict, prefix: str = "") -> Iterable[tuple[str, object]]:
    """(words, command) of every command, those inside groups with the group's word first."""
    for name, command in commands.items():
        if hasattr(command, "commands"):
            yield from leaves(command.commands, f"{prefix}{name} ")
        else:
            yield prefix + name, command


COMMANDS = dict(leaves(TOP))


# ---------------------------------------------------------------- generated tables


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    lines = [list(head), ["---"] * len(list(head)), *(list(row) for row in rows)]
    return "".join(f"| {' | '.join(x.replace('|', '/') for x in line)} |\n" for line in lines)


def commands_table() -> str:
    parts = []
    for name, command in COMMANDS.items():
        rows = []
        for p in command.params:
            if "--help" in p.opts:
                continue
            what = f"`{p.opts[0]}`" if p.param_type_name == "option" else f"`{p.name.upper()}`"
            shown = "required" if p.required else "" if p.default in (None, False) else p.default
            rows.append((what, str(shown), p.help or ""))
        first = inspect.cleandoc(command.help or "").split("\n\n")[0]
        parts.append(f"### sat3d {name}\n\n{first}\n\n{table(('option', 'default', ''), rows)}")
    return "\n".join(parts)


def settings_table() -> str:
    rows = ((f"`{key}`", f"`{default}`", text) for key, default, text in describe())
    return table(("setting", "default", "meaning"), rows)


def presets_table() -> str:
    flat = {name: dict(flattened(settings.model_dump())) for name, settings in PRESETS.items()}
    keys = [k for k in flat["paper"] if len({str(values[k]) for values in flat.values()}) > 1]
    rows = ([f"`{key}`", *(str(values[key]) for values in flat.values())] for key in keys)
    return table(("setting", *flat), rows)


def flattened(data: dict, prefix: str = "") -> Iterable[tuple[str, object]]:
    for key, value in data.items():
        if isinstance(value, dict):
            yield from flattened(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def hooks_table() -> str:
    return table(("hook", ""), ((f"`{name}`", f.__doc__ or "") for name, f in HOOKS.items()))


def with_tables(text: str) -> str:
    """The reference with every generated part as it should be."""
    for name, make in (
        ("commands", commands_table),
        ("settings", settings_table),
        ("presets", presets_table),
        ("hooks", hooks_table),
    ):
        mark = f"<!-- generated: {name} -->\n"
        assert mark in text, f"reference.md has no mark for {name}"
        before, rest = text.split(mark, 1)
        text = f"{before}{mark}{make()}<!-- end -->{rest.split('<!-- end -->', 1)[1]}"
    return text


def test_the_generated_tables_are_up_to_date():
    text = REFERENCE.read_text()
    assert text == with_tables(text), "run: python tests/test_docs.py"


# ---------------------------------------------------------------- completeness


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_is_explained_for_authors_of_plugins(hook):
    assert f"`{hook}`" in (DOCS / "write-a-plugin.md").read_text()


@pytest.mark.parametrize("command", TOP)
def test_every_command_is_in_the_readme(command):
    assert f"`sat3d {command}`" in (ROOT / "README.md").read_text()


def test_every_key_of_a_pack_is_explained():
    text = (DOCS / "own-domain.md").read_text()
    for model in (DescriptorPack, Attribute, Group, Region, Preselect, Exclude, Quota):
        for key in model.model_fields:
            assert f"`{key}`" in text, f"{model.__name__}.{key}"


def section(title: str) -> str:
    """A part of the reference, by its heading."""
    found = re.search(rf"^#+ {title}\n(.*?)(?=^#|\Z)", REFERENCE.read_text(), re.DOTALL | re.M)
    assert found, title
    return found[1]


def test_every_header_key_that_training_writes_is_explained(tmp_path):
    parts = (testing.ToyGenerator(), testing.toy_pack(), testing.ToyMeasure(testing.toy_pack()))
    settings = TrainSettings(steps=2, pool_size=16, report_every=1, preselection={"images": 4})
    masks = sat3d.train(*parts, testing.ToySegmenter(), settings, out=tmp_path)
    text = section("A training run")
    line = json.loads((tmp_path / "training.jsonl").read_text().splitlines()[0])
    figures = masks.header["figures"]
    keys = [*masks.header, *masks.header["generator"], *figures, *figures["held_out"], *line]
    for name in [*keys, *(file.name for file in tmp_path.iterdir())]:
        assert f"`{name}`" in text, name


def test_every_key_of_a_record_and_of_a_latent_is_explained(tmp_path):
    from sat3d.latents import from_seed, save_latent
    from sat3d.transfer_report import Job, draw_all, record
    from sat3d.weights import read_header

    generator = testing.ToyGenerator(is_3d=True)
    one, two = (from_seed(generator, seed) for seed in (0, 1))
    masks = testing.toy_masks(generator)
    job = Job(generator, masks, one, [sat3d.Edit(two, ("top",))])
    for key in record(job, draw_all(job)):
        assert f"`{key}`" in section("A transfer"), key
    save_latent(tmp_path / "a.safetensors", one, generator)
    for key in read_header(tmp_path / "a.safetensors"):
        assert f"`{key}`" in section("A saved latent"), key


def test_every_figure_of_an_evaluation_is_explained():
    from sat3d.evaluation import EvaluateSettings, evaluate

    generator = testing.ToyGenerator()
    small = EvaluateSettings(pairs=2, bank=16)
    masks = testing.toy_masks(generator)
    found = evaluate(generator, masks, testing.ToyReader(), testing.ToySegmenter(), small)
    for key in [*found, *found["mean"]]:
        assert f"`{key}`" in section("An evaluation"), key


@pytest.mark.parametrize("path", sorted((ROOT / "plugins").rglob("*.safetensors")), ids=str)
def test_every_header_key_of_the_bundled_weights_is_explained(path):
    from sat3d.weights import read_header

    text = section("Weights files")
    for key in read_header(path):
        assert f"`{key}`" in text, key


# ---------------------------------------------------------------- what the pages say is so


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_pictures_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        file, _, anchor = target.partition("#")
        goal = (page.parent / file).resolve() if file else page
        assert goal.exists(), target
        if anchor:
            heads = re.findall(r"^#+ (.+)$", goal.read_text(), re.M)
            slugs = [re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads]
            assert anchor in slugs, target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_in_the_docs_exist_with_their_options(page):
    text = page.read_text().replace("\\\n", " ")
    lines = [
        line
        for block in re.findall(r"^```sh\n(.*?)^```", text, re.M | re.DOTALL)
        for line in re.split(r"\n|&&", block)
    ]
    for line in lines:
        words = line.split()
        if words[:1] != ["sat3d"] or words[1].startswith("-"):
            continue
        named = [c for n in (2, 3) if (c := COMMANDS.get(" ".join(words[1:n])))]
        assert named, line
        known = {opt for p in named[0].params for opt in p.opts} | {"--debug"}
        assert {word for word in words if word.startswith("--")} <= known, line


def test_the_messages_of_the_domain_page_are_the_real_ones(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (DOCS / "own-domain.md").read_text()
    pack = re.search(r"^```yaml\n(# Headgear.*?)^```", text, re.M | re.DOTALL)[1]
    changes = [
        ("\ntemplate:", "\ntemplat:"),
        ("template: a cartoon head with {}", "template: a cartoon head"),
        ("cut: none", "cut: top"),
        ("name: eyewear", "name: Eye wear"),
        ("phrase: a hat,", "phrase: hat,"),
        ("[hat, hair]", "[hat, hairs]"),
    ]
    labels = sat3d.load_segmenter("bisenet", None, "cpu").labels
    messages = re.findall(r"\| `error: ([^|]*)` \|", text)
    assert len(messages) == len(changes)
    for (old, new), message in zip(changes, messages, strict=True):
        assert pack.count(old) == 1
        Path("my.yaml").write_text(pack.replace(old, new))
        with pytest.raises(sat3d.PackError) as caught:
            sat3d.load_pack("./my.yaml").check_labels(labels, "bisenet")
        assert str(caught.value) == message
    Path("my.yaml").write_text(pack)
    sat3d.load_pack("./my.yaml").check_labels(labels, "bisenet")


# ---------------------------------------------------------------- the plugin page


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The package of the plugin page, written out and importable."""
    text = (DOCS / "write-a-plugin.md").read_text()
    for body in re.findall(r"^```(?:python|toml|yaml)\n(.*?)^```", text, re.M | re.DOTALL):
        named = re.match(r"# (\S+\.\w+)\n", body)
        if named:
            (tmp_path / named[1]).parent.mkdir(exist_ok=True)
            (tmp_path / named[1]).write_text(body)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in [n for n in sys.modules if n.split(".")[0] in ("sat3d_textures", "test_textures")]:
        del sys.modules[name]


def test_the_packages_entry_point_names_its_module(package):
    project = tomllib.loads((package / "pyproject.toml").read_text())
    assert project["project"]["entry-points"]["sat3d"] == {"textures": "sat3d_textures"}
    assert (package / "sat3d_textures" / "textures.yaml").is_file()


def test_the_package_offers_what_the_page_says(package):
    module = importlib.import_module("sat3d_textures")
    assert "torch" not in vars(module)
    catalogue = sat3d.discover([("textures", module)])
    assert not catalogue.problems
    shown = re.search(
        r"^```text\n(generator .*?)^```", (DOCS / "write-a-plugin.md").read_text(), re.M | re.S
    )
    lines = [re.split(r"  +", line) for line in shown[1].splitlines()]
    mine = [
        (k, o.spec.name, o.spec.summary) for k, o in catalogue.offers() if o.plugin == "textures"
    ]
    assert [(line[0], line[1], line[3]) for line in lines] == mine


def test_the_packages_own_tests_pass(package):
    module = importlib.import_module("test_textures")
    checks = [f for name, f in vars(module).items() if name.startswith("test_")]
    assert len(checks) == 2
    for check in checks:
        check()
    module.TestGenerator.setup_class()
    inherited = [name for name in dir(module.TestGenerator) if name.startswith("test_")]
    assert len(inherited) > 8
    for name in inherited:
        getattr(module.TestGenerator(), name)()


def test_what_the_package_names_as_fitting_exists(package):
    module = importlib.import_module("sat3d_textures")
    catalogue = sat3d.discover([("textures", module)])
    generator = sat3d.load_generator("textures", None, "cpu", catalogue)
    goes_with = generator.card.goes_with
    catalogue.clip_model(goes_with["clip"])
    catalogue.reader(goes_with["reader"])
    pack = sat3d.load_pack(goes_with["descriptors"], catalogue)
    segmenter = sat3d.load_segmenter(goes_with["segmenter"], None, "cpu", catalogue)
    pack.check_labels(segmenter.labels, segmenter.name)


def test_the_packages_generator_reads_weights_of_its_own_kind_only(package, tmp_path):
    from sat3d.weights import save_weights

    load = importlib.import_module("sat3d_textures.generator").load
    made = load(None, torch.device("cpu"))
    file = tmp_path / "mine.safetensors"
    save_weights(file, made.network.state_dict(), {"architecture": "textures"})
    assert load(str(file), torch.device("cpu")).card.fingerprint == made.card.fingerprint
    save_weights(file, made.network.state_dict(), {"architecture": "other"})
    with pytest.raises(sat3d.InputError, match="not a file of textures"):
        load(str(file), torch.device("cpu"))


# ---------------------------------------------------------------- the recipes page


RECIPES = ("generator", "generator2d", "text_image", "segmenter", "readers", "encoder")


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_is_documented_with_its_own_default_minutes(recipe):
    text = (ROOT / "recipes" / "README.md").read_text()
    assert f"python -m recipes.{recipe}" in text
    source = (ROOT / "recipes" / f"{recipe}.py").read_text()
    minutes = re.search(r'minutes=([\d.]+)|"--minutes", type=float, default=([\d.]+)', source)
    assert minutes, "no default budget"
    row = re.search(rf"^\| `{recipe}` .*$", text, re.M)
    assert row and f"| {float(minutes[1] or minutes[2]):g} |" in row[0]


def main() -> None:
    """Write the generated tables."""
    REFERENCE.write_text(with_tables(REFERENCE.read_text()))


if __name__ == "__main__":
    main()
