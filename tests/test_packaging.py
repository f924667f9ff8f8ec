"""The lists in pyproject.toml, the folders on disk, the public names and the version agree."""

import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

import sat3d

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def packages_on_disk() -> dict[str, Path]:
    """Import name -> folder of every package that belongs in the wheel."""
    found = {}
    for top, name in (("sat3d", "sat3d"), ("plugins", "sat3d_plugins")):
        for file in sorted((ROOT / top).rglob("*.py")):
            parts = file.parent.relative_to(ROOT / top).parts
            found[".".join((name, *parts))] = file.parent
    return found


def test_the_listed_packages_are_the_folders_with_code(project):
    listed = project["tool"]["setuptools"]["packages"]
    assert listed == sorted(listed)
    assert listed == sorted(packages_on_disk())


def test_every_package_has_an_init():
    for name, folder in packages_on_disk().items():
        assert (folder / "__init__.py").is_file(), name


def test_the_entry_points_are_the_packages_with_hooks(project):
    hooked = {
        name
        for name, folder in packages_on_disk().items()
        if name.startswith("sat3d_plugins")
        and re.search(r"^@(sat3d\.)?hookimpl", (folder / "__init__.py").read_text(), re.MULTILINE)
    }
    assert set(project["project"]["entry-points"]["sat3d"].values()) == hooked


def test_the_installed_entry_points_are_those_of_this_tree(project):
    installed = {
        point.name: point.value
        for point in metadata.entry_points(group="sat3d")
        if point.dist is not None and point.dist.name == "sat3d"
    }
    assert installed == project["project"]["entry-points"]["sat3d"], "run: pip install -e ."


def test_every_data_file_is_in_the_wheel(project):
    data = project["tool"]["setuptools"]["package-data"]
    shipped = set()
    for folder in packages_on_disk().values():
        for pattern in data["*"]:
            shipped |= set(folder.glob(pattern))
    on_disk = {
        path
        for pattern in ("*.yaml", "*.json", "*.safetensors", "*.txt")
        for path in (ROOT / "plugins").rglob(pattern)
    }
    assert on_disk == shipped
    assert data["sat3d"] == ["py.typed"]
    templates = ROOT / "sat3d" / "scaffold"
    shipped = {x for pattern in data["sat3d.scaffold"] for x in templates.glob(pattern)}
    assert shipped == set((templates / "templates").iterdir())


def test_the_bundled_weights_stay_small():
    total = sum(path.stat().st_size for path in (ROOT / "plugins").rglob("*.safetensors"))
    assert total <= 60_000_000


def test_bundled_plugins_import_nothing_of_the_folder_name():
    """``plugins.x`` would be a second copy of ``sat3d_plugins.x``."""
    for path in (ROOT / "plugins").rglob("*.py"):
        assert not re.search(r"^\s*(from|import) plugins\b", path.read_text(), re.MULTILINE), path


def test_version_changelog_and_installation_agree():
    newest = re.search(r"^## \[([^\]]+)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert newest.group(1) == sat3d.__version__ == metadata.version("sat3d")


def test_every_public_name_resolves_and_the_list_is_sorted():
    assert sat3d.__all__ == sorted(sat3d.__all__, key=_ruff_order)
    assert set(sat3d.__all__) == {"__version__", *sat3d._HOME}
    for name in sat3d.__all__:
        assert getattr(sat3d, name) is not None
    assert dir(sat3d) == sorted(sat3d.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = sat3d.nonsense


def _ruff_order(name: str) -> tuple[int, str]:
    """Constants, then classes, then the rest: the order the linter keeps."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)


@pytest.mark.parametrize("name", ["train", "transfer", "invert", "evaluate"])
def test_no_module_hides_a_verb(name):
    """A module ``sat3d/train.py``, once imported, would replace the function ``sat3d.train``."""
    assert not (ROOT / "sat3d" / f"{name}.py").exists()
    assert not (ROOT / "sat3d" / name).exists()
    assert callable(getattr(sat3d, name))


def test_importing_sat3d_imports_nothing_heavy():
    code = "import sys, sat3d; print(sorted({'torch', 'pydantic', 'pluggy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


ATTRIBUTES = (
    "hair", "hairs", "hairstyle", "hair_color", "haircut", "eyes", "eye_region", "eyeglasses",
    "glasses", "beards?", "moustache", "goatee", "smiles?", "smiling", "hats?", "fur", "fur_color",
    "avatars?", "faces?", "facial", "cats?(?!\\()", "cars?", "petals?", "flowers?",
)  # fmt: skip


def domain_words() -> re.Pattern[str]:
    """Attributes and domains, and whatever generators, segmenters and packs are bundled."""
    folders = [*(ROOT / "plugins" / "generators").iterdir()]
    folders += (ROOT / "plugins" / "segmenters").iterdir()
    names = [x.name for x in folders if x.is_dir() and not x.name.startswith("_")]
    names += [x.stem for x in (ROOT / "plugins" / "descriptors").glob("*.yaml")]
    assert {"eg3d", "bisenet", "faces"} <= set(names)
    # Parts of names count too: to_face, EG3DSegmenter, hair_color.
    words = "|".join([*names, *ATTRIBUTES])
    return re.compile(rf"(?i)(?<![a-z])({words})(?![a-z])|(?i:bisenet|eg3d|stylegan2|deeplab)")


def test_the_core_knows_no_domain_and_no_generator():
    """Not in code, words, templates or file names; only examples of the command line may."""
    words, files = domain_words(), 0
    example = re.compile(r"^\s+(sat3d |SAT3D_PLUGINS=|--)")
    for path in sorted((ROOT / "sat3d").rglob("*")):
        if path.is_dir() or path.suffix in (".pyc", ".so"):
            continue
        assert not words.search(str(path.relative_to(ROOT))), path
        files += 1
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if path.parent.name == "cli" and example.match(line):
                continue
            assert not words.search(line), f"{path.name}:{number}: {line.strip()}"
    assert files > 50


def test_the_search_for_domain_words_finds_them():
    words = domain_words()
    for text in (
        "class EG3DThing",
        "to_face(",
        "HAIR_COLOR",
        "a beard",
        "'cats'",
        "BiSeNet",
        "car",
    ):
        assert words.search(text), text
    for text in ("torch.cat(x)", "surface", "scars", "HAIRLINE", "interface", "cards", "careful"):
        assert not words.search(text), text


def test_the_library_does_not_print():
    for path in (ROOT / "sat3d").rglob("*.py"):
        assert not re.search(r"^\s*print\(", path.read_text(), re.MULTILINE), path


def test_the_readme_names_every_command_and_top_level_folder():
    readme = (ROOT / "README.md").read_text()
    for command in ("train", "transfer", "invert", "evaluate", "plugins", "doctor"):
        assert f"sat3d {command}" in readme
    for path in ROOT.iterdir():
        if path.is_dir() and not path.name.startswith(".") and (path / "__init__.py").exists():
            assert f"{path.name}/" in readme
    assert len(readme.splitlines()) <= 90
