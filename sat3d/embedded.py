"""Weights that come with a generator's plugin: by name, and which go with a descriptor pack.

Their own headers say what they go with, so a file that is added to a plugin is found by its pack.
No torch here: what there is, is listed by ``sat3d plugins``.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from sat3d import store
from sat3d.errors import Sat3dError, UsageError, nearest_name
from sat3d.headers import read_header
from sat3d.specs import GeneratorSpec

if TYPE_CHECKING:
    import torch

    from sat3d.artifact import Masks
    from sat3d.interfaces import Generator
    from sat3d.registry import Catalogue


def weights_in(folder: Path) -> dict[str, Path]:
    """The weights files of a folder by name, which is the file's stem; sorted."""
    return {path.stem: path for path in sorted(folder.glob(f"*{store.SUFFIX}"))}


def pack_of(path: Path) -> str | None:
    """Name of the pack that weights go with, if their header says. Raises InputError."""
    fits = read_header(path).get("goes_with")
    name = fits.get("descriptors") if isinstance(fits, dict) else None
    return name if isinstance(name, str) else None


def packs(spec: GeneratorSpec) -> dict[str, str]:
    """Names of embedded weights and their packs; '-' where none is named or can be read."""
    found = {}
    for name, path in spec.weights_files.items():
        try:
            found[name] = pack_of(path) or "-"
        except Sat3dError:
            found[name] = "-"
    return found


def by_name(spec: GeneratorSpec, weights: str | Path | None) -> str | Path | None:
    """The file of embedded weights where ``weights`` is the name of such; else as given.

    Raises what the store does for a name that it does not know and that resembles one of these.
    """
    if not isinstance(weights, str):
        return weights
    if weights in spec.weights_files:
        return spec.weights_files[weights]
    if nearest_name(weights, spec.weights_files):
        try:
            store.resolve(weights)
        except UsageError as error:
            names = ", ".join(spec.weights_files)
            raise type(error)(f"{error} Embedded ones of '{spec.name}': {names}.") from None
    return weights


def for_pack(spec: GeneratorSpec, pack: str, catalogue: "Catalogue | None" = None) -> str | None:
    """Name of the embedded weights that go with a pack; None: none do, take the default.

    The first of several. Raises UsageError where the default is evidently wrong: none that are
    embedded go with the pack, and published ones of this generator do.
    """
    for name, path in spec.weights_files.items():
        if pack_of(path) == pack:
            return name
    others = sorted(_published(spec, pack, catalogue)) if spec.weights_files else []
    if others:
        raise UsageError(
            f"no embedded weights of '{spec.name}' go with pack '{pack}'; published ones do: "
            f"{', '.join(others)}. Pull one with 'sat3d weights pull' and add --weights, or name "
            f"embedded ones: {', '.join(spec.weights_files)}."
        )
    return None


def _published(spec: GeneratorSpec, pack: str, catalogue: "Catalogue | None") -> list[str]:
    from sat3d.weights_list import published

    return [
        name
        for name, listed in published(catalogue).items()
        if (listed.kind, listed.plugin) == ("generator", spec.name)
        and listed.entry.goes_with.get("descriptors") == pack
    ]


def generator_for(
    masks: "Masks",
    name: str | None = None,
    weights: str | Path | None = None,
    device: "torch.device | str | None" = None,
) -> "Generator":
    """The generator that masks were made for, by default with the weights that they name.

    These are looked for among the embedded ones, then in the store. Raises MismatchError if what
    was found or given is another generator, and what loading does.
    """
    from sat3d.registry import discover, load_generator

    made, catalogue = masks.header["generator"], discover()
    name = name or made["name"]
    choices: list[str | Path | None] = []
    if weights is None and name == made["name"]:
        choices += _of_that_name(catalogue.generator(name).spec, made["weights"])
    for choice in choices or [weights]:  # several only where the store has one of that name too
        loaded = load_generator(name, choice, device, catalogue)
        if loaded.card.fingerprint == made["fingerprint"]:
            break
    masks.check(loaded)
    return loaded


def _of_that_name(spec: GeneratorSpec, name: str) -> Iterator[Path]:
    """Files of a generator's weights of a name: embedded ones, then those in the store."""
    if name in spec.weights_files:
        yield spec.weights_files[name]
    if name in store.names() and read_header(store.path_of(name)).get("kind") == "generator":
        yield store.path_of(name)
