"""Descriptor packs: what the attributes of a domain are, in words and regions (YAML).

A pack names attributes; each has groups of phrases that a text-image model scores (paper,
section 3.2), the region of the image it may alter, and how many channels to pre-select. The pool
section says which generated images to leave out and which shares to keep. A pack may extend
another: it then says only what differs.
"""

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from sat3d.errors import PackError, UsageError, nearest_name, unknown_name
from sat3d.plain_yaml import read_yaml


def _distinct(phrases: tuple[str, ...]) -> tuple[str, ...]:
    twice = _first_twice(phrases)
    if twice is not None:
        raise ValueError(f"phrases must differ from one another, and '{twice}' is there twice")
    return phrases


def _one_gap(template: str) -> str:
    if template.count("{}") != 1:
        raise ValueError(f"must contain {{}} exactly once, and '{template}' does not")
    return template


MAX_DEPTH = 8
"""Packs that may extend one another in a row."""

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)]
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
Phrases = Annotated[tuple[Text, ...], Field(min_length=2, max_length=64), AfterValidator(_distinct)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Group(_Model):
    """Phrases that exclude one another and together cover one characteristic."""

    name: Name
    phrases: Phrases


class Region(_Model):
    """The alterable region: pixels of these segmenter labels, optionally one half of their box."""

    labels: tuple[Text, ...] = Field(min_length=1)
    cut: Literal["none", "upper", "lower"] = "none"
    grow: float = Field(0.0, ge=0.0, le=0.5)
    """Dilate the region by this share of the image's size."""


class Preselect(_Model):
    """Head start of this attribute in the matrix (paper: k_t and d_t)."""

    share: float = Field(0.0, ge=0.0, le=1.0)
    """k_t as a share of the editable channels; the paper's 3500 of 5760 is 0.61."""
    strength: float = Field(1.8, ge=0.0, le=20.0)
    """d_t, the matrix entry that a pre-selected channel starts with."""


class Attribute(_Model):
    """One attribute that can be transferred."""

    name: Name
    title: Text
    groups: tuple[Group, ...] = Field(min_length=1, max_length=64)
    region: Region | None = None
    preselect: Preselect = Preselect()

    @model_validator(mode="after")
    def _groups_differ(self) -> "Attribute":
        _refuse_twice("groups", [group.name for group in self.groups])
        return self


class Rule(_Model):
    """A statement about generated images, measured with the text-image model."""

    name: Name
    phrases: Phrases
    phrase: Text
    """The one of ``phrases`` that the rule is about."""

    @model_validator(mode="after")
    def _member(self) -> "Rule":
        if self.phrase not in self.phrases:
            raise ValueError(unknown_name("phrase", self.phrase, self.phrases))
        return self


class Exclude(Rule):
    """Leave an image out when the phrase is at least this probable."""

    above: float = Field(0.5, ge=0.0, le=1.0)


class Quota(Rule):
    """Keep at least this share of the pool on the phrase's side (its probability is largest)."""

    share: float = Field(ge=0.0, le=1.0)


class PoolRules(_Model):
    """Which generated images make the training pool."""

    exclude: tuple[Exclude, ...] = ()
    quotas: tuple[Quota, ...] = ()


class DescriptorPack(_Model):
    """The attributes of one domain."""

    name: Name
    title: Text
    domain: Text
    version: int = Field(1, ge=1)
    template: Annotated[Text, AfterValidator(_one_gap)]
    attributes: tuple[Attribute, ...] = Field(min_length=1, max_length=64)
    pool: PoolRules = PoolRules()

    @model_validator(mode="after")
    def _consistent(self) -> "DescriptorPack":
        _refuse_twice("attributes", ["others", *(a.name for a in self.attributes)], first=1)
        # A title may repeat its own attribute's name, but not lead to another attribute.
        keys = [key for a in self.attributes for key in {a.name, _key(a.title)}]
        twice = _first_twice(keys)
        if twice is not None:
            raise ValueError(f"attributes: two of them answer to the name or title '{twice}'")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """Attribute names in matrix row order."""
        return tuple(a.name for a in self.attributes)

    def index(self, attribute: str) -> int:
        """Row of an attribute, by name or title, case ignored. Raises PackError."""
        wanted = _key(attribute)
        for row, known in enumerate(self.attributes):
            if wanted in (known.name, _key(known.title)):
                return row
        raise PackError(unknown_name("attribute", attribute, self.names))

    def prompt(self, phrase: str) -> str:
        """The phrase in the pack's template, as the text-image model reads it."""
        return self.template.replace("{}", phrase)

    def check_labels(self, labels: tuple[str, ...], segmenter: str) -> None:
        """Raise PackError if a region names a label the segmenter does not have."""
        for row, attribute in enumerate(self.attributes):
            for k, label in enumerate(attribute.region.labels if attribute.region else ()):
                if label not in labels:
                    raise PackError(
                        f"pack '{self.name}': attributes[{row}].region.labels[{k}]: segmenter "
                        f"'{segmenter}' has no label; {unknown_name('label', label, labels)}"
                    )


class AttributeChange(_Model):
    """An attribute in a pack that extends another: a new one, or what differs of the other's."""

    name: Name
    title: Text = ""
    groups: tuple[Group, ...] = Field((), min_length=1, max_length=64)
    region: Region | None = None
    preselect: Preselect = Preselect()


class Extension(_Model):
    """The file of a pack that extends another; keys that are not given are the other pack's."""

    extends: Text
    """The other pack: its name, or the path of a file in or below the folder of this one."""
    without: tuple[Name, ...] = Field((), max_length=64)
    """Attributes of the other pack to leave out."""
    name: Name
    title: Text = ""
    domain: Text = ""
    version: int = Field(1, ge=1)
    template: Annotated[Text, AfterValidator(_one_gap)] = ""
    attributes: tuple[AttributeChange, ...] = Field((), max_length=64)
    """In the place of the other pack's of the same name; new ones come after all others."""
    pool: PoolRules = PoolRules()
    """In the place of the other pack's rules, all of them."""

    @model_validator(mode="after")
    def _attributes_differ(self) -> "Extension":
        _refuse_twice("attributes", [attribute.name for attribute in self.attributes])
        return self


FindPack = Callable[[str], Path]
"""A pack's name to its file. Raises UsageError for a name that is not known."""


def _key(text: str) -> str:
    return "_".join(text.casefold().replace("-", " ").split())


def _first_twice(values: Iterable[str]) -> str | None:
    seen: set[str] = set()
    for value in values:
        if value in seen:
            return value
        seen.add(value)
    return None


def _refuse_twice(where: str, names: list[str], first: int = 0) -> None:
    """Raise ValueError for the second of two equal names; entries before ``first`` are reserved."""
    twice = _first_twice(names)
    if twice is not None:
        row = len(names) - 1 - names[::-1].index(twice) - first
        taken = "reserved" if names.index(twice) < first else "already taken"
        raise ValueError(f"{where}[{row}].name: '{twice}' is {taken}. Choose another name")


def load_pack(path: Path, find: FindPack | None = None) -> DescriptorPack:
    """Read and check a YAML pack, with those that it extends; ``find`` looks their names up.

    Raises PackError with file, key path, value and remedy.
    """
    return parse_pack(_read(path, find or _installed, ()), str(path))


def _installed(name: str) -> Path:
    from sat3d.registry import discover

    return discover().descriptor(name).spec.path


def _read(path: Path, find: FindPack, seen: tuple[Path, ...]) -> Any:
    """The plain data of a pack, which no longer extends another; ``seen`` are those extending."""
    data = read_yaml(path, "pack", PackError)
    if not isinstance(data, dict) or "extends" not in data:
        return data
    try:
        changes = Extension.model_validate(data)
    except ValidationError as error:
        raise PackError(f"{path}: {_explain(error, Extension)}") from None
    seen = (*seen, path.resolve())
    below = _extended(path, changes.extends, find)
    if below.resolve() in seen:
        chain = " -> ".join(f"'{file.name}'" for file in (*seen, below.resolve()))
        raise PackError(f"{path}: extends: packs extend one another in a circle: {chain}. Cut it.")
    if len(seen) > MAX_DEPTH:
        raise PackError(f"{path}: extends: more than {MAX_DEPTH} packs in a row. Merge some.")
    base = parse_pack(_read(below, find, seen), str(below))
    return _merged(path, base, changes)


def is_file_name(text: str) -> bool:
    """Whether a text that chooses a pack is a path, not a name: it has a separator or .yaml."""
    return "/" in text or os.sep in text or text.endswith((".yaml", ".yml"))


def _extended(path: Path, text: str, find: FindPack) -> Path:
    """File of the pack that ``path`` extends. A path must lead into the folder of ``path``."""
    if not is_file_name(text):
        try:
            return find(text)
        except UsageError as error:
            raise PackError(f"{path}: extends: {error}") from None
    folder = path.resolve().parent
    try:
        file = (folder / text).resolve()
    except (OSError, ValueError):  # a loop of links, a zero byte
        file = Path()
    if not file.is_relative_to(folder):
        raise PackError(
            f"{path}: extends: '{text}' leads out of the folder of this file. Give the name of an "
            "installed pack, or copy the file beside this one."
        )
    return file


def _merged(path: Path, base: DescriptorPack, changes: Extension) -> dict[str, Any]:
    """The other pack's data with the changes, unchecked."""
    given = changes.model_dump(mode="json", exclude_unset=True)
    given.pop("extends")
    rows = {a.name: a.model_dump(mode="json") for a in base.attributes}
    for k, name in enumerate(given.pop("without", ())):
        if rows.pop(name, None) is None:
            raise PackError(f"{path}: without[{k}]: {unknown_name('attribute', name, base.names)}")
    for k, row in enumerate(given.pop("attributes", ())):
        new = row["name"] not in rows
        if new and not {"title", "groups"} <= row.keys():
            known = unknown_name("attribute", row["name"], base.names)
            raise PackError(
                f"{path}: attributes[{k}]: pack '{base.name}' has none like it, and a new one "
                f"needs title and groups; {known}"
            )
        rows[row["name"]] = rows.get(row["name"], {}) | row
    return base.model_dump(mode="json") | {"version": 1} | given | {"attributes": [*rows.values()]}


def json_schema() -> dict[str, Any]:
    """JSON Schema of pack files, for editors: a whole pack, or one that extends another."""
    schema = TypeAdapter(DescriptorPack | Extension).json_schema()
    whole, extension = (entry["$ref"] for entry in schema["anyOf"])
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Descriptor pack of sat3d",
        "type": "object",
        # Not 'anyOf': an editor could then only say that neither fits, not what is wrong.
        "if": {"required": ["extends"]},
        "then": {"$ref": extension},
        "else": {"$ref": whole},
        "$defs": schema["$defs"],
    }


def parse_pack(data: Any, where: str) -> DescriptorPack:
    """Check plain data as a pack; ``where`` names its origin in errors."""
    try:
        return DescriptorPack.model_validate(data)
    except ValidationError as error:
        raise PackError(f"{where}: {_explain(error)}") from None


def _explain(error: ValidationError, model: type[BaseModel] = DescriptorPack) -> str:
    """The most telling problem: key path, value, what is allowed, nearest allowed name."""
    problems = error.errors()
    # A misspelt key also shows as a missing one; the misspelling says more.
    first = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
    path = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in first["loc"]).lstrip(".")
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    head = f"{path}: " if path else ""
    if first["type"] == "value_error":  # our own words, which quote the value
        return f"{head}{first['msg'].removeprefix('Value error, ').rstrip('.')}.{more}"
    return f"{head}{_what(dict(first), model)}{more}"


def _what(problem: dict[str, Any], model: type[BaseModel]) -> str:
    """What is wrong at one place, in our words where pydantic's are not meant for users."""
    kind, value = problem["type"], repr(problem["input"])
    found = f"(found {value if len(value) <= 80 else value[:77] + '...'})"
    if kind in ("extra_forbidden", "invalid_key"):
        allowed = _allowed_keys(problem["loc"][:-1], model)
        near = nearest_name(str(problem["loc"][-1]), allowed)
        hint = f" Did you mean '{near}'?" if near else ""
        return f"unknown key {found}.{hint} Allowed: {', '.join(allowed)}."
    if kind == "missing":
        return "this key is missing. Add it."
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        keys = ", ".join(_allowed_keys(problem["loc"], model))
        return f"must be a mapping with the keys {keys} {found}."
    if kind == "tuple_type":
        return f"must be a list {found}."
    if kind == "string_pattern_mismatch":
        return f"must be lower-case letters, digits and _, starting with a letter {found}."
    if kind == "literal_error":
        allowed = re.findall("'([^']+)'", problem["ctx"]["expected"])
        near = nearest_name(str(problem["input"]), allowed)
        hint = f" Did you mean '{near}'?" if near else ""
        return f"must be one of {', '.join(allowed)} {found}.{hint}"
    message = problem["msg"].replace("Input should be", "must be")
    return f"{message.replace('String should', 'must').replace('Tuple should', 'must')} {found}."


def _allowed_keys(path: tuple[int | str, ...], model: type[BaseModel]) -> list[str]:
    """Field names of the model at a key path; ``model`` is the one at its start."""
    models: dict[str, type[BaseModel]] = {
        "attributes": Attribute,
        "groups": Group,
        "region": Region,
        "preselect": Preselect,
        "pool": PoolRules,
        "exclude": Exclude,
        "quotas": Quota,
    }
    keys = [p for p in path if isinstance(p, str)]
    return list((models[keys[-1]] if keys else model).model_fields)
