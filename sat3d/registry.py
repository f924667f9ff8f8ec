"""Finding plugins: entry points of the group ``sat3d``, bundled and third-party alike.

Each plugin is loaded on its own. What goes wrong with one is recorded as a :class:`Problem` and
ends nothing; it becomes an error only when that plugin is asked for by name. ``SAT3D_PLUGINS=a,b``
limits loading to the entry points of those names.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

import pluggy

from sat3d import hookspecs
from sat3d.devices import default_device as default_device
from sat3d.devices import resolve_device as resolve_device
from sat3d.embedded import by_name
from sat3d.errors import PluginError, Sat3dError, UsageError, unknown_name
from sat3d.specs import (
    AnySpec,
    ClipSpec,
    DescriptorSpec,
    EditorSpec,
    GeneratorSpec,
    ImporterSpec,
    ReaderSpec,
    SegmenterSpec,
    WeightsListSpec,
)

if TYPE_CHECKING:
    import torch

    from sat3d.descriptors import DescriptorPack
    from sat3d.interfaces import Generator, Reader, Segmenter

GROUP = "sat3d"
BY_HAND = "by hand"  # the distribution shown for plugins registered in the running program

Spec = TypeVar("Spec", bound=AnySpec, covariant=True)
Loaded = TypeVar("Loaded")

# Kind of thing -> (field of the catalogue and end of the hook's name, type of its spec).
_KINDS: Mapping[str, tuple[str, type[AnySpec]]] = {
    "generator": ("generators", GeneratorSpec),
    "segmenter": ("segmenters", SegmenterSpec),
    "descriptor pack": ("descriptors", DescriptorSpec),
    "reader": ("readers", ReaderSpec),
    "clip model": ("clip_models", ClipSpec),
    "weights list": ("weights", WeightsListSpec),
    "importer": ("importers", ImporterSpec),
    "editor": ("editors", EditorSpec),
}


@dataclass(frozen=True)
class Origin:
    """Where a plugin comes from."""

    plugin: str
    """Name of the entry point."""
    distribution: str
    version: str
    module: str = ""

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}".strip()


@dataclass(frozen=True)
class Problem:
    """A plugin, or one thing it offers, that cannot be used, and why."""

    plugin: str
    distribution: str
    version: str
    reason: str


@dataclass(frozen=True)
class Offer(Generic[Spec]):
    """One thing on offer and where it comes from."""

    spec: Spec
    plugin: str
    distribution: str
    version: str
    module: str = ""
    """Import name of the plugin; empty for one registered by hand."""

    @property
    def source(self) -> str:
        """Distribution and version in words."""
        return f"{self.distribution} {self.version}".strip()


@dataclass(frozen=True)
class Catalogue:
    """Everything the installed plugins offer, by name."""

    generators: Mapping[str, Offer[GeneratorSpec]] = field(default_factory=dict)
    segmenters: Mapping[str, Offer[SegmenterSpec]] = field(default_factory=dict)
    descriptors: Mapping[str, Offer[DescriptorSpec]] = field(default_factory=dict)
    readers: Mapping[str, Offer[ReaderSpec]] = field(default_factory=dict)
    clip_models: Mapping[str, Offer[ClipSpec]] = field(default_factory=dict)
    weights: Mapping[str, Offer[WeightsListSpec]] = field(default_factory=dict)
    importers: Mapping[str, Offer[ImporterSpec]] = field(default_factory=dict)
    editors: Mapping[str, Offer[EditorSpec]] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    seconds: Mapping[Origin, float] = field(default_factory=dict)
    """How long each plugin took to import and to say what it offers."""

    def generator(self, name: str) -> Offer[GeneratorSpec]:
        """The generator of that name. Raises UsageError, or PluginError for a broken plugin."""
        return self.generators.get(name) or self._refuse("generator", name, self.generators)

    def segmenter(self, name: str) -> Offer[SegmenterSpec]:
        """As :meth:`generator`."""
        return self.segmenters.get(name) or self._refuse("segmenter", name, self.segmenters)

    def descriptor(self, name: str) -> Offer[DescriptorSpec]:
        """As :meth:`generator`."""
        known = self.descriptors
        return known.get(name) or self._refuse("descriptor pack", name, known)

    def reader(self, name: str) -> Offer[ReaderSpec]:
        """As :meth:`generator`."""
        return self.readers.get(name) or self._refuse("reader", name, self.readers)

    def clip_model(self, name: str) -> Offer[ClipSpec]:
        """As :meth:`generator`."""
        return self.clip_models.get(name) or self._refuse("clip model", name, self.clip_models)

    def editor(self, name: str) -> Offer[EditorSpec]:
        """As :meth:`generator`."""
        return self.editors.get(name) or self._refuse("editor", name, self.editors)

    def offers(self) -> list[tuple[str, Offer[AnySpec]]]:
        """(kind, offer) of everything, kind by kind."""
        return [
            (kind, offer)
            for kind, (column, _) in _KINDS.items()
            for offer in getattr(self, column).values()
        ]

    def _refuse(self, kind: str, name: str, known: Iterable[str]) -> NoReturn:
        for problem in self.problems:
            if problem.plugin == name:
                raise PluginError(
                    f"{kind} '{name}' is not available: plugin '{name}' "
                    f"({problem.distribution} {problem.version}): {problem.reason}"
                )
        broken = sorted({problem.plugin for problem in self.problems})
        hint = f" Not usable: {', '.join(broken)}; see 'sat3d plugins'." if broken else ""
        raise UsageError(unknown_name(kind, name, known) + hint)


_by_hand: ContextVar[tuple[tuple[str, object], ...]] = ContextVar("_by_hand", default=())


@contextmanager
def registered(name: str, plugin: object) -> Iterator[None]:
    """Offer a plugin object (a module or an object with hooks) inside the ``with`` block."""
    token = _by_hand.set((*_by_hand.get(), (name, plugin)))
    try:
        yield
    finally:
        _by_hand.reset(token)


def discover(extra: Iterable[tuple[str, object]] = ()) -> Catalogue:
    """Ask every plugin what it offers; ``extra`` adds (name, plugin object) pairs by hand.

    Never raises because of a plugin: see ``Catalogue.problems``.
    """
    shelf = _Shelf()
    for point in _entry_points(shelf):
        origin = _origin(point)
        shelf.take(origin, point.load)
    for name, plugin in (*_by_hand.get(), *extra):
        shelf.take(Origin(name, BY_HAND, ""), lambda plugin=plugin: plugin)  # type: ignore[misc]
    columns: dict[str, Any] = {column: shelf.offers[kind] for kind, (column, _) in _KINDS.items()}
    return Catalogue(problems=tuple(shelf.problems), seconds=shelf.seconds, **columns)


class _Shelf:
    """Collects what plugins offer, one plugin at a time."""

    def __init__(self) -> None:
        self.offers: dict[str, dict[str, Offer[AnySpec]]] = {kind: {} for kind in _KINDS}
        self.problems: list[Problem] = []
        self.seconds: dict[Origin, float] = {}

    def take(self, origin: Origin, load: Callable[[], object]) -> None:
        """Load one plugin; add its offers, or the reason why there are none."""
        began = time.perf_counter()
        try:
            specs = _ask(origin.plugin, load())
        except (Exception, SystemExit) as error:  # a plugin may raise anything
            self.complain(origin, _reason(error))
            return
        finally:
            self.seconds[origin] = time.perf_counter() - began
        for kind, spec in specs:
            self._add(origin, kind, spec)

    def complain(self, origin: Origin, reason: str) -> None:
        """Record why something of a plugin cannot be used."""
        self.problems.append(Problem(origin.plugin, origin.distribution, origin.version, reason))

    def _add(self, origin: Origin, kind: str, spec: AnySpec) -> None:
        first = self.offers[kind].get(spec.name)
        if first is not None:
            self.complain(
                origin,
                f"{kind} '{spec.name}' is already offered by plugin '{first.plugin}' of "
                f"{first.source}, which is used; the one of {origin} is not. "
                "Uninstall one of them or set SAT3D_PLUGINS.",
            )
            return
        self.offers[kind][spec.name] = Offer(
            spec, origin.plugin, origin.distribution, origin.version, origin.module
        )


def _ask(name: str, plugin: object) -> list[tuple[str, AnySpec]]:
    """(kind, spec) of all that one plugin offers. Raises whatever is wrong with it."""
    # A manager per plugin: one plugin's mistakes cannot reach another's hooks.
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)
    manager.register(plugin, name)
    manager.check_pending()  # finds misspelt hooks
    if not manager.get_hookcallers(plugin):
        raise PluginError("it implements no hook. Mark its functions with @sat3d.hookimpl.")
    specs: list[tuple[str, AnySpec]] = []
    for kind, (column, expected) in _KINDS.items():
        hook = f"register_{column}"

        def register(spec: object, kind: str = kind, expected: type[AnySpec] = expected) -> None:
            specs.append((kind, _checked(spec, expected)))

        try:
            getattr(manager.hook, hook)(register=register)
        except (Exception, SystemExit) as error:
            raise PluginError(f"{hook} failed: {_reason(error)}") from error
    return specs


def _checked(spec: object, expected: type[AnySpec]) -> AnySpec:
    if not isinstance(spec, expected):
        raise PluginError(f"registered {spec!r:.80}, not a {expected.__name__}")
    if not isinstance(spec.name, str) or not spec.name:
        raise PluginError(f"a {expected.__name__} needs a name, not {spec.name!r:.80}")
    return spec


def _reason(error: BaseException) -> str:
    """One line: the kind of error and its message."""
    text = " ".join(str(error).split())
    own = isinstance(error, Sat3dError)
    return text if own else f"{type(error).__name__}: {text}".rstrip(": ")


def _entry_points(shelf: _Shelf) -> list[metadata.EntryPoint]:
    """Entry points to load, bundled ones first; those named in vain become problems."""
    points = sorted(_all_entry_points(shelf), key=_rank)
    chosen = os.environ.get("SAT3D_PLUGINS")
    if chosen is None:
        return points
    names = [name.strip() for name in chosen.split(",") if name.strip()]
    known = {point.name for point in points}
    for name in names:
        if name not in known:
            reason = f"named in SAT3D_PLUGINS, but {unknown_name('plugin', name, known)}"
            shelf.complain(Origin(name, "none", ""), reason)
    return [point for point in points if point.name in names]


def _all_entry_points(shelf: _Shelf) -> Iterable[metadata.EntryPoint]:
    try:
        return metadata.entry_points(group=GROUP)
    except Exception:
        # One distribution with damaged metadata breaks the query for all: ask one by one.
        pass
    found: dict[str, list[metadata.EntryPoint]] = {}
    for distribution in metadata.distributions():
        name = "unknown"
        try:
            name = distribution.metadata["Name"]
            mine = [point for point in distribution.entry_points if point.group == GROUP]
        except Exception as error:
            shelf.complain(Origin(name, name, ""), f"damaged metadata: {_reason(error)}")
            continue
        found.setdefault(name, mine)
    return [point for points in found.values() for point in points]


def _rank(point: metadata.EntryPoint) -> tuple[bool, str, str]:
    origin = _origin(point)
    return (origin.distribution != GROUP, origin.distribution, origin.plugin)


def _origin(point: metadata.EntryPoint) -> Origin:
    distribution = point.dist
    try:
        name, version = (distribution.name, distribution.version) if distribution else ("", "")
    except Exception:  # metadata without a name or version
        name, version = "", ""
    return Origin(point.name, name or "unknown", version or "", point.value.partition(":")[0])


def load_generator(
    name: str,
    weights: str | Path | None = None,
    device: "str | torch.device | None" = None,
    catalogue: Catalogue | None = None,
) -> "Generator":
    """Load a generator by name; ``weights``: a path, a name of its own weights or of the store's.

    None takes the embedded default.
    Raises UsageError for an unknown name, PluginError for a plugin that fails.
    """
    from sat3d.interfaces import Generator

    offer = (catalogue or discover()).generator(name)
    return _load(Generator, offer, by_name(offer.spec, weights), device)


def load_segmenter(
    name: str,
    weights: str | Path | None = None,
    device: "str | torch.device | None" = None,
    catalogue: Catalogue | None = None,
) -> "Segmenter":
    """Load a segmenter by name; as :func:`load_generator`."""
    from sat3d.interfaces import Segmenter

    offer = (catalogue or discover()).segmenter(name)
    return _load(Segmenter, offer, weights, device)


def load_reader(
    name: str,
    weights: str | Path | None = None,
    device: "str | torch.device | None" = None,
    catalogue: Catalogue | None = None,
) -> "Reader":
    """Load an attribute reader by name; as :func:`load_generator`."""
    from sat3d.interfaces import Reader

    offer = (catalogue or discover()).reader(name)
    return _load(Reader, offer, weights, device)


def load_pack(name_or_path: str | Path, catalogue: Catalogue | None = None) -> "DescriptorPack":
    """A descriptor pack by name, or from a YAML file (ends in .yaml or .yml, or has a separator).

    Names that a pack extends are looked up in the same catalogue.

    Raises UsageError for an unknown name, PackError for a file that does not validate.
    """
    from sat3d import descriptors

    def find(name: str) -> Path:
        return (catalogue or discover()).descriptor(name).spec.path

    named = isinstance(name_or_path, str) and not descriptors.is_file_name(name_or_path)
    path = find(str(name_or_path)) if named else Path(name_or_path)
    return descriptors.load_pack(path, find)


def _load(
    expected: type[Loaded],
    offer: "Offer[GeneratorSpec] | Offer[SegmenterSpec] | Offer[ReaderSpec]",
    weights: str | Path | None,
    device: "str | torch.device | None",
) -> Loaded:
    target = resolve_device(device)
    who = f"plugin '{offer.plugin}' ({offer.source})"
    try:
        thing = offer.spec.load(None if weights is None else str(weights), target)
    except Sat3dError:
        raise
    except Exception as error:
        raise PluginError(f"{who} cannot load '{offer.spec.name}': {_reason(error)}") from error
    if not isinstance(thing, expected):
        raise PluginError(
            f"{who} loads '{offer.spec.name}' as a {type(thing).__name__}, "
            f"not a sat3d.{expected.__name__}"
        )
    return thing
