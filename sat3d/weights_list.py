"""Lists of published weights (YAML): where they are, what they are, what may be done with them.

Every plugin may offer one through the hook ``register_weights``. Nothing here fetches anything.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from sat3d.errors import InputError, Sat3dError, UsageError, nearest_name, unknown_name
from sat3d.plain_yaml import read_yaml
from sat3d.store import checked_name

if TYPE_CHECKING:
    from sat3d.registry import Catalogue

Role = Literal["clip", "clip_pretrained", "segmenter", "segmenter_weights", "descriptors", "reader"]


def _web(address: str) -> str:
    parts = urlsplit(address)
    if parts.scheme not in ("https", "http") or not parts.hostname:
        raise ValueError(f"must be an address that begins with https:// or http://, not {address}")
    return address


def _name(name: str) -> str:
    try:
        return checked_name(name)
    except UsageError as error:
        raise ValueError(str(error)) from None


Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=300)]
Address = Annotated[Text, AfterValidator(_web)]
Name = Annotated[Text, AfterValidator(_name)]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$", max_length=100)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Cameras(_Model):
    """Cameras of a 3D generator's training distribution; lengths in its own unit, radians."""

    radius: float = Field(gt=0, le=100)
    focal: float = Field(gt=0, le=100)
    pivot: tuple[float, float, float] = (0.0, 0.0, 0.0)
    yaw: float = Field(ge=0, le=3.2)
    pitch: float = Field(ge=0, le=1.6)


class Entry(_Model):
    """One set of published weights."""

    name: Name
    """What it is called in the store."""
    title: Text
    domain: Text
    file: FileName
    """The published file's name."""
    addresses: tuple[Address, ...] = ()
    """Where the file itself is, best first; empty where it has to be fetched by hand."""
    page: Address
    """Where people find it."""
    size: int | None = Field(None, ge=1, le=1 << 40)
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{8,64}$")
    """All 64 digits, or the first ones where only those are published."""
    licence: Text
    licence_url: Address
    commercial: Literal["yes", "no", "unclear"]
    goes_with: Mapping[Role, Text] = Field(default_factory=dict)
    cameras: Cameras | None = None
    note: Text | None = None

    def header(self) -> dict[str, Any]:
        """What a weights file made from it says about itself, beside what the file contains."""
        values: dict[str, Any] = {
            "title": self.title,
            "domain": self.domain,
            "licence": self.licence,
            "licence_url": self.licence_url,
            "commercial": self.commercial,
            "goes_with": dict(self.goes_with),
        }
        if self.cameras is not None:
            values["cameras"] = self.cameras.model_dump()
        return values


class WeightsList(_Model):
    """All published weights that one plugin reads."""

    kind: Literal["generator", "segmenter", "reader"]
    plugin: Text
    """Name of the generator, segmenter or reader."""
    weights: tuple[Entry, ...] = Field(min_length=1, max_length=1000)

    @model_validator(mode="after")
    def _names_differ(self) -> "WeightsList":
        seen: set[str] = set()
        for row, entry in enumerate(self.weights):
            if entry.name in seen:
                raise ValueError(f"weights[{row}].name: '{entry.name}' is there twice")
            seen.add(entry.name)
        return self


@dataclass(frozen=True)
class Listed:
    """An entry and the plugin that reads it."""

    entry: Entry
    kind: str
    plugin: str


@dataclass
class Published:
    """All entries of all plugins by name, and what is wrong with lists that cannot be used."""

    entries: dict[str, Listed] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def load_list(path: Path) -> WeightsList:
    """Read and check one list. Raises InputError naming file, key path and value."""
    data = read_yaml(path, "weights list", InputError)
    try:
        return WeightsList.model_validate(data)
    except ValidationError as error:
        raise InputError(f"{path}: {_explain(error)}") from None


def collect(catalogue: "Catalogue | None" = None) -> Published:
    """Every installed plugin's list; a broken one is a problem and hides nothing else."""
    from sat3d.registry import discover

    found = Published()
    for offer in (catalogue or discover()).weights.values():
        try:
            loaded = load_list(offer.spec.path)
        except Sat3dError as error:
            found.problems.append(f"plugin '{offer.plugin}' ({offer.source}): {error}")
            continue
        for entry in loaded.weights:
            if entry.name in found.entries:
                found.problems.append(
                    f"plugin '{offer.plugin}' ({offer.source}): weights '{entry.name}' are "
                    f"already listed for '{found.entries[entry.name].plugin}'"
                )
                continue
            found.entries[entry.name] = Listed(entry, loaded.kind, loaded.plugin)
    return found


def published(catalogue: "Catalogue | None" = None) -> dict[str, Listed]:
    """Every installed plugin's published weights by name."""
    return collect(catalogue).entries


def lookup(name: str, catalogue: "Catalogue | None" = None) -> Listed:
    """One of them. Raises UsageError with the nearest name."""
    known = published(catalogue)
    if name not in known:
        raise UsageError(unknown_name("published weights", name, known))
    return known[name]


def _explain(error: ValidationError) -> str:
    """The first problem: key path, value, what is allowed, nearest allowed name."""
    problems = error.errors()
    first = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
    path = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in first["loc"]).lstrip(".")
    head = f"{path}: " if path else ""
    if first["type"] == "missing":
        return f"{head}this key is missing. Add it."
    if first["type"] == "value_error":
        return f"{head}{first['msg'].removeprefix('Value error, ')}."
    if first["type"] == "extra_forbidden":
        model = Cameras if "cameras" in first["loc"] else Entry if len(first["loc"]) > 1 else None
        allowed = list((model or WeightsList).model_fields)
        near = nearest_name(str(first["loc"][-1]), allowed)
        hint = f" Did you mean '{near}'?" if near else ""
        return f"{head}unknown key.{hint} Allowed: {', '.join(allowed)}."
    value = repr(first["input"])
    found = value if len(value) <= 80 else value[:77] + "..."
    return f"{head}{first['msg'].replace('Input should be', 'must be')} (found {found})."
