"""Writes the beginning of a plugin package: ``sat3d plugin new``.

The texts are the files of ``templates/``, filled in with :class:`string.Template`. What it writes
installs with pip as it is, passes its own tests, and trains.
"""

import re
from dataclasses import dataclass
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from string import Template

from sat3d import __version__
from sat3d.errors import UsageError
from sat3d.files import folder_written_whole
from sat3d.registry import Catalogue

_NAME = re.compile(r"[a-z][a-z0-9]*(?:[-_][a-z0-9]+)*")
_LONGEST = 40


@dataclass(frozen=True)
class Plan:
    """What to write."""

    name: str
    """As the user says it: lower-case words joined by - or _."""
    generator: bool = False
    segmenter: bool = False

    @property
    def word(self) -> str:
        """The name where only letters, digits and _ are allowed."""
        return self.name.replace("-", "_")

    @property
    def distribution(self) -> str:
        """Name for pip."""
        return f"sat3d-{self.word.replace('_', '-')}"

    @property
    def module(self) -> str:
        """Name for import."""
        return f"sat3d_{self.word}"


def check_plan(plan: Plan, catalogue: Catalogue) -> None:
    """Raise UsageError for a name that is no name, or one that an installed plugin has taken."""
    if not _NAME.fullmatch(plan.name) or len(plan.name) > _LONGEST or plan.word == "null":
        raise UsageError(
            f"'{plan.name}' cannot name a plugin: lower-case letters and digits, words joined by "
            f"- or _, at most {_LONGEST} characters. Example: my-domain."
        )
    for kind, offer in catalogue.offers():
        if plan.word == offer.spec.name or plan.word == offer.plugin:
            raise UsageError(
                f"{kind} '{offer.spec.name}' of plugin '{offer.plugin}' ({offer.source}) is "
                f"already called '{plan.word}'. Choose another name."
            )
    if find_spec(plan.module) is not None:
        raise UsageError(f"module '{plan.module}' is already installed. Choose another name.")


def write_plugin(plan: Plan, out: Path, catalogue: Catalogue) -> list[Path]:
    """Write the package into the folder ``out`` and name its files, relative to it.

    The folder appears whole or not at all. Raises UsageError if it exists or the name cannot be.
    """
    check_plan(plan, catalogue)
    if out.exists() or out.is_symlink():
        raise UsageError(f"'{out}' already exists. Choose another folder with --out.")
    files = render(plan, catalogue)
    with folder_written_whole(out) as folder:
        for name, text in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    return [Path(name) for name in files]


def render(plan: Plan, catalogue: Catalogue) -> dict[str, str]:
    """The texts by path, in the order in which they are worth reading."""
    values = _values(plan, catalogue)
    module = plan.module
    files = {
        "README.md": "README.md",
        "pyproject.toml": "pyproject.toml",
        f"{module}/__init__.py": "hooks.py",
        f"{module}/{plan.word}.yaml": "pack.yaml",
    }
    if plan.generator:
        files[f"{module}/generator.py"] = "generator.py"
    if plan.segmenter:
        files[f"{module}/segmenter.py"] = "segmenter.py"
    files[f"tests/test_{plan.word}.py"] = "test_plugin.py"
    return {path: _fill(file, values).rstrip() + "\n" for path, file in files.items()}


def _values(plan: Plan, catalogue: Catalogue) -> dict[str, str]:
    """What the templates' words stand for."""
    clips, hosts = list(catalogue.clip_models), _ready(catalogue)
    title = plan.word.replace("_", " ").capitalize()
    values = {
        "name": plan.word,
        "title": title,
        "distribution": plan.distribution,
        "module": plan.module,
        "version": __version__,
        "clip": clips[0] if clips else "ViT-B-32-quickgelu",
        "class_name": "".join(part.capitalize() for part in plan.word.split("_")),
        "host": plan.word if plan.generator else (hosts[0] if hosts else "GENERATOR"),
        "segmenter": plan.word if plan.segmenter else "none",
        "labels": '("ground", "disc")' if plan.segmenter else "None",
        "ground_region": "\n    region: {labels: [ground]}" if plan.segmenter else "",
        "disc_region": "\n    region: {labels: [disc], grow: 0.05}" if plan.segmenter else "",
    }
    parts = {"generator": plan.generator, "segmenter": plan.segmenter}
    for place in ("loaders", "hooks", "tests", "rows"):
        texts = [_fill(f"{part}.{place}", values) for part, on in parts.items() if on]
        values[f"more_{place}"] = "".join(texts)
    specs = ["DescriptorSpec"]
    specs += ["GeneratorSpec"] if plan.generator else []
    specs += ["SegmenterSpec"] if plan.segmenter else []
    values["specs"] = ", ".join([*specs, "hookimpl"])
    values["conformance"] = "".join(f"{x[:-4]}Conformance, " for x in specs[1:])
    return values


def _ready(catalogue: Catalogue) -> list[str]:
    """Generators that need no weights."""
    return [name for name, offer in catalogue.generators.items() if offer.spec.embedded]


def _fill(template: str, values: dict[str, str]) -> str:
    file = resources.files(__package__) / "templates" / f"{template}.tmpl"
    return Template(file.read_text(encoding="utf-8")).substitute(values)
