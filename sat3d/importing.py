"""Checkpoints made by other programs become weights files in the store.

Plugins know the layouts (hook ``register_importers``); here the file is opened without trust, the
plugin's claims are checked against the network it rebuilds, and the tensors are read last.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sat3d.errors import InputError, PluginError, Sat3dError
from sat3d.files import refuse_existing
from sat3d.foreign import Checkpoint, one_line, open_checkpoint
from sat3d.store import SUFFIX, checked_name, store_folder
from sat3d.stored import StoredTensor, shown
from sat3d.weights import save_weights

if TYPE_CHECKING:
    from sat3d.registry import Catalogue
    from sat3d.specs import ImporterSpec

_LARGEST = 2**30
"""Bytes of tensors; the largest published generators have an eighth of it."""
Value = StoredTensor | Tensor


@dataclass(frozen=True)
class Conversion:
    """What a plugin makes of a checkpoint: nothing read yet that need not be."""

    layout: str
    """What the file was, in words."""
    tensors: Mapping[str, Value]
    """Under the names of the plugin's own network."""
    shapes: Mapping[str, tuple[int, ...]]
    """All tensors that the rebuilt network has: see :func:`shapes_of`."""
    header: Mapping[str, Any]
    """For the weights file: ``kind``, ``architecture``, ``config`` and whatever else is known."""
    resolution: int | None = None
    style_channels: int | None = None
    notes: tuple[str, ...] = ()
    """What was assumed or computed because the file does not say, one sentence each."""


@dataclass(frozen=True)
class ImportReport:
    """What was imported, and where it is now."""

    kind: str
    """'generator', 'segmenter' or 'reader'."""
    architecture: str
    layout: str
    resolution: int | None
    style_channels: int | None
    """n, the editable ones; None for what has no style space."""
    licence: str
    path: Path
    sha256: str
    """Of the file that was given."""
    notes: tuple[str, ...] = field(default=())


def import_file(
    path: Path,
    name: str | None = None,
    *,
    header: Mapping[str, Any] | None = None,
    folder: Path | None = None,
    overwrite: bool = False,
    catalogue: "Catalogue | None" = None,
) -> ImportReport:
    """Read a checkpoint of a known layout and write it as weights into the store.

    ``name`` is what it will be called (default: after the file); ``header`` adds what the file
    cannot say, such as licence or cameras; ``folder`` replaces the store. Executes nothing of the
    file. Raises InputError for a file that is not recognised, damaged or does not fit its own
    architecture, UsageError for a name that is taken.
    """
    from sat3d.registry import discover

    specs = [offer.spec for offer in (catalogue or discover()).importers.values()]
    target = (folder or store_folder()) / f"{checked_name(name or default_name(path))}{SUFFIX}"
    refuse_existing(target, overwrite)
    classes = sorted({one for spec in specs for one in spec.classes})
    with open_checkpoint(path, classes) as checkpoint:
        conversion = _convert(checkpoint, specs)
        with one_line(path):
            _check_shapes(conversion)
            tensors = _read_all(conversion.tensors)
            digest = checkpoint.sha256
    source = {"file": path.name, "sha256": digest, "layout": conversion.layout}
    whole = {"licence": "unknown", **conversion.header, **(header or {}), "source": source}
    if conversion.notes:
        whole["notes"] = list(conversion.notes)
    save_weights(target, tensors, whole)
    return _report(conversion, whole, target, digest)


def default_name(path: Path) -> str:
    """A name in the store after a file's: odd characters become '-'."""
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "._+-") else "-" for c in path.stem)
    return plain.lstrip("._+-")[:100] or "imported"


def shapes_of(network: nn.Module) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a network's tensors; build it under ``torch.device('meta')``."""
    return {key: tuple(value.shape) for key, value in network.state_dict().items()}


def _report(
    conversion: Conversion, header: Mapping[str, Any], path: Path, digest: str
) -> ImportReport:
    return ImportReport(
        str(header["kind"]),
        str(header["architecture"]),
        conversion.layout,
        conversion.resolution,
        conversion.style_channels,
        str(header["licence"]),
        path,
        digest,
        conversion.notes,
    )


def _convert(checkpoint: Checkpoint, specs: "list[ImporterSpec]") -> Conversion:
    for spec in specs:
        try:
            with one_line(checkpoint.path):
                if spec.recognise(checkpoint):
                    return spec.convert(checkpoint)
        except Sat3dError:
            raise
        except Exception as error:
            raise PluginError(
                f"importer '{spec.name}' fails on '{checkpoint.path}': "
                f"{type(error).__name__}: {shown(str(error))}"
            ) from error
    known = "; ".join(f"{spec.name}: {spec.summary}" for spec in specs) or "no importer installed"
    raise InputError(
        f"'{checkpoint.path}' ({checkpoint.layout}) holds {_contents(checkpoint.root)}, which no "
        f"importer knows. Known: {known}."
    )


def _contents(root: object) -> str:
    if isinstance(root, dict):
        keys = ", ".join(shown(key) for key in list(root)[:4])
        return f"a dict of {len(root)} entries ({keys}{', ...' if len(root) > 4 else ''})"
    return shown(getattr(root, "class_name", root))


def _check_shapes(conversion: Conversion) -> None:
    """Compare what is there with what the architecture needs, before anything is read."""
    have, need = conversion.tensors, conversion.shapes
    architecture = conversion.header["architecture"]
    for problem, keys in (("lacks", need.keys() - have), ("has also", have.keys() - need.keys())):
        if keys:
            first = shown(min(keys))
            raise InputError(
                f"it {problem} {len(keys)} tensors for {architecture} as configured, first {first}"
            )
    for key, shape in need.items():
        if tuple(have[key].shape) != shape:
            raise InputError(
                f"its tensor {shown(key)} has shape {list(have[key].shape)}; "
                f"{architecture} as configured has {list(shape)}"
            )
    total = sum(_size(value) for value in have.values())
    if total > _LARGEST:
        raise InputError(f"its network has {total} bytes; allowed: {_LARGEST}")


def _size(value: Value) -> int:
    return value.bytes if isinstance(value, StoredTensor) else value.numel() * value.itemsize


def _read_all(tensors: Mapping[str, Value]) -> dict[str, Tensor]:
    whole = {}
    for key, value in tensors.items():
        tensor = value.read() if isinstance(value, StoredTensor) else value
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise InputError(f"its tensor {shown(key)} has values that are no numbers: damaged")
        whole[key] = tensor.float() if tensor.dtype == torch.float64 else tensor
    return whole


def whole_number(
    values: Mapping[str, object], key: str, low: int, high: int, default: int | None = None
) -> int:
    """A setting of a checkpoint. Raises InputError if it is missing or out of range."""
    value = values.get(key, default)
    if type(value) is not int or not low <= value <= high:
        raise InputError(f"its setting {key} is {shown(value)}; allowed: {low} to {high}")
    return value


def number(
    values: Mapping[str, object], key: str, low: float, high: float, default: float | None = None
) -> float:
    """As :func:`whole_number`, for real numbers."""
    value = values.get(key, default)
    if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
        raise InputError(f"its setting {key} is {shown(value)}; allowed: {low:g} to {high:g}")
    return value


def one_of(
    values: Mapping[str, object], key: str, allowed: tuple[str, ...], default: str | None = None
) -> str:
    """As :func:`whole_number`, for names."""
    value = values.get(key, default)
    if not isinstance(value, str) or value not in allowed:
        raise InputError(f"its setting {key} is {shown(value)}; allowed: {', '.join(allowed)}")
    return value


def yes_or_no(values: Mapping[str, object], key: str, default: bool) -> bool:
    """As :func:`whole_number`, for switches."""
    value = values.get(key, default)
    if not isinstance(value, bool):
        raise InputError(f"its setting {key} is {shown(value)}; allowed: True, False")
    return value


def table(values: Mapping[str, object], key: str) -> dict[str, object]:
    """A dict among the settings; empty where it is missing. Raises InputError for others."""
    value = values.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise InputError(f"its setting {key} is {shown(value)}; allowed: a table")
    return value
