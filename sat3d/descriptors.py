"""Descriptor packs: what the attributes of a domain are, in words and regions (YAML).

A pack names attributes; each has groups of phrases that a text-image model scores (paper,
section 3.2), the region of the image it may alter, and how many channels to pre-select. The pool
section says which generated images to leave out and which shares to keep.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from sat3d.errors import PackError, nearest_name, unknown_name
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


def load_pack(path: Path) -> DescriptorPack:
    """Read and check a YAML pack. Raises PackError with file, key path, value and remedy."""
    return parse_pack(read_yaml(path, "pack", PackError), str(path))


def parse_pack(data: Any, where: str) -> DescriptorPack:
    """Check plain data as a pack; ``where`` names its origin in errors."""
    try:
        return DescriptorPack.model_validate(data)
    except ValidationError as error:
        raise PackError(f"{where}: {_explain(error)}") from None


def _explain(error: ValidationError) -> str:
    """The most telling problem: key path, value, what is allowed, nearest allowed name."""
    problems = error.errors()
    # A misspelt key also shows as a missing one; the misspelling says more.
    first = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
    path = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in first["loc"]).lstrip(".")
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    head = f"{path}: " if path else ""
    if first["type"] == "value_error":  # our own words, which quote the value
        return f"{head}{first['msg'].removeprefix('Value error, ').rstrip('.')}.{more}"
    return f"{head}{_what(dict(first))}{more}"


def _what(problem: dict[str, Any]) -> str:
    """What is wrong at one place, in our words where pydantic's are not meant for users."""
    kind, value = problem["type"], repr(problem["input"])
    found = f"(found {value if len(value) <= 80 else value[:77] + '...'})"
    if kind in ("extra_forbidden", "invalid_key"):
        allowed = _allowed_keys(problem["loc"][:-1])
        near = nearest_name(str(problem["loc"][-1]), allowed)
        hint = f" Did you mean '{near}'?" if near else ""
        return f"unknown key {found}.{hint} Allowed: {', '.join(allowed)}."
    if kind == "missing":
        return "this key is missing. Add it."
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        keys = ", ".join(_allowed_keys(problem["loc"]))
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


def _allowed_keys(path: tuple[int | str, ...]) -> list[str]:
    """Field names of the model at a key path."""
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
    return list((models[keys[-1]] if keys else DescriptorPack).model_fields)
