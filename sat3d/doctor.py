"""What this machine has, what it can do, and what is wrong."""

import os
import platform
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from sat3d import __version__, store
from sat3d.errors import PluginError, Sat3dError
from sat3d.headers import read_header
from sat3d.registry import (
    GROUP,
    Catalogue,
    Offer,
    discover,
    load_generator,
    load_reader,
    load_segmenter,
)
from sat3d.specs import AnySpec, ClipSpec, GeneratorSpec

LEAST_MEMORY = 6 << 30
"""Bytes that a training run on the CPU may take."""
SLOWEST_IMPORT = 2.0
"""Seconds that a plugin may take to say what it offers."""

_PACKAGES = (
    "torch",
    "torchvision",
    "open_clip_torch",
    "segmentation_models_pytorch",
    "pytorch-optimizer",
    "safetensors",
    "httpx2",
    "pydantic",
    "pluggy",
    "typer",
    "numpy",
    "pillow",
    "imageio",
)


@dataclass
class Report:
    """What was found; ``problems`` is empty on a healthy machine."""

    facts: dict[str, str] = field(default_factory=dict)
    """What there is, in the order of examination."""
    abilities: list[str] = field(default_factory=list)
    """What this machine can do, one sentence each."""
    problems: list[str] = field(default_factory=list)
    """What is wrong and what to do about it, one sentence each."""


def examine() -> Report:
    """Look at the installation and the machine. Never raises because of what it finds."""
    report = Report()
    catalogue = discover()  # first: a plugin's import is quick only if it imports no torch
    report.facts["sat3d"] = __version__
    report.facts["python"] = f"{platform.python_version()} ({sys.executable})"
    report.facts["system"] = platform.platform()
    for part in (_packages, _processor, _devices, _video, _disk, _store):
        part(report)
    _plugins(report, catalogue)
    _bundled(report, catalogue)
    return report


def _packages(report: Report) -> None:
    for name in _PACKAGES:
        try:
            report.facts[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            report.facts[name] = "missing"
            report.problems.append(f"package '{name}' is missing. Run: pip install {name}")


def _processor(report: Report) -> None:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    report.facts["cores"] = str(cores)
    memory = memory_bytes()
    if memory is None:
        return
    report.facts["memory"] = size_text(memory)
    if memory < LEAST_MEMORY:
        report.problems.append(
            f"{size_text(memory)} of memory may not be enough: training on the CPU can take "
            f"{size_text(LEAST_MEMORY)}. Close other programs or use a larger machine."
        )


def memory_bytes() -> int | None:
    """Memory of this machine, or the container's limit if that is less; None if unknown."""
    amounts = []
    with suppress(AttributeError, ValueError, OSError):  # not a POSIX system
        amounts.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for limit in ("memory.max", "memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # no container, or the limit is "max"
            amounts.append(int((Path("/sys/fs/cgroup") / limit).read_text()))
    return min(amounts, default=None)


def _devices(report: Report) -> None:
    try:
        import torch
    except Exception as error:  # a broken installation raises all sorts
        report.problems.append(
            f"torch cannot be imported: {_line(error)}. Install it again: pip install -U torch"
        )
        return
    report.facts["CUDA of torch"] = torch.version.cuda or "none (CPU build)"
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for index in range(count):
        card = torch.cuda.get_device_properties(index)
        report.facts[f"cuda:{index}"] = (
            f"{card.name}, {size_text(card.total_memory)}, compute {card.major}.{card.minor}"
        )
    report.facts["default device"] = "cuda" if count else "cpu"
    _try_devices(report, ["cpu", *(f"cuda:{index}" for index in range(count))])


def _try_devices(report: Report, names: list[str]) -> None:
    """A device counts only if a small computation comes out right on it."""
    import torch

    for name in names:
        try:
            total = float(torch.ones(8, 8, device=name).matmul(torch.ones(8, 8, device=name)).sum())
        except Exception as error:
            report.problems.append(f"device '{name}' does not compute: {_line(error)}.")
            continue
        if total != 512.0:
            report.problems.append(f"device '{name}' computes wrongly: 512 came out as {total}.")
        else:
            report.abilities.append(f"training, transfer and measuring on '{name}'")


def _video(report: Report) -> None:
    try:
        import imageio_ffmpeg

        imageio_ffmpeg.get_ffmpeg_exe()
    except Exception as error:
        report.problems.append(
            f"no videos: {_line(error)}. Run: pip install 'imageio[ffmpeg]'; pictures still work."
        )
    else:
        report.abilities.append("turntable videos (ffmpeg is there)")


def _disk(report: Report) -> None:
    try:
        report.facts["disk free here"] = size_text(shutil.disk_usage(Path.cwd()).free)
    except OSError as error:
        report.problems.append(f"the current folder cannot be examined: {_line(error)}.")


def _store(report: Report) -> None:
    try:
        report.facts["weights store"] = f"{len(store.names())} in {store.store_folder()}"
    except OSError as error:
        report.problems.append(f"the weights store cannot be read: {_line(error)}.")


def _plugins(report: Report, catalogue: Catalogue) -> None:
    for kind, offer in catalogue.offers():
        report.facts[f"{kind} {offer.spec.name}"] = offer.source
    for problem in catalogue.problems:
        source = f"{problem.distribution} {problem.version}".strip()
        report.problems.append(f"plugin '{problem.plugin}' ({source}): {problem.reason}")
    for origin, seconds in catalogue.seconds.items():
        if seconds > SLOWEST_IMPORT:
            report.problems.append(
                f"plugin '{origin.plugin}' ({origin}) takes {seconds:.1f} s to import, and every "
                "command waits for it. Import torch and read weights inside its 'load' functions, "
                "or leave it out with SAT3D_PLUGINS."
            )


def _bundled(report: Report, catalogue: Catalogue) -> None:
    """Weights that come with the package, and packs that must validate."""
    sizes: dict[Path, int] = {}  # one plugin may offer several things
    for kind, offer in catalogue.offers():
        name = f"{kind} '{offer.spec.name}'"
        if kind == "descriptor pack":
            _attempt(report, name, lambda path=offer.spec.path: _check_pack(path))  # type: ignore[union-attr,misc]
            continue
        if kind == "weights list":
            _attempt(report, name, lambda path=offer.spec.path: _check_list(path))  # type: ignore[union-attr,misc]
            continue
        if kind == "clip model":
            _clip_files(report, f"{name} ({offer.source})", offer.spec)
        if offer.distribution != GROUP:
            _by_loading(report, kind, offer)
            continue
        if kind in ("importer", "editor") or not getattr(offer.spec, "embedded", True):
            continue
        files = _weights_of(offer.module)
        if not files and kind == "reader":  # one may see by what another plugin brings
            _by_loading(report, kind, offer)
        elif not files:
            report.problems.append(
                f"{name}: its weights are not in the package. Install sat3d again or "
                "give your own with --weights."
            )
        for path in files:
            if path not in sizes:
                sizes[path] = path.stat().st_size
                report.facts[f"weights {offer.plugin}/{path.stem}"] = size_text(sizes[path])
                _attempt(report, name, lambda path=path: _check_weights(path))  # type: ignore[misc]
    report.facts["bundled weights"] = size_text(sum(sizes.values()))


def _clip_files(report: Report, name: str, spec: AnySpec) -> None:
    assert isinstance(spec, ClipSpec), "the registry has checked it"
    for path in (spec.config, spec.weights):
        if not path.is_file():
            report.problems.append(f"{name}: there is no file '{path}'. Install it again.")


def _by_loading(report: Report, kind: str, offer: Offer[AnySpec]) -> None:
    """Load its default weights: a plugin's files are its own business, so nothing less tells."""
    if isinstance(offer.spec, GeneratorSpec):
        for path in offer.spec.weights_files.values():
            who = f"plugin '{offer.plugin}' ({offer.source}): {kind} '{offer.spec.name}'"
            _attempt(report, who, lambda path=path: _check_weights(path))  # type: ignore[misc]
    load = _LOADERS.get(kind)
    if load is None or not getattr(offer.spec, "embedded", True):
        return
    try:
        load(offer.spec.name, None, "cpu")
    except PluginError as error:  # names the plugin
        report.problems.append(str(error))
    except Sat3dError as error:
        report.problems.append(
            f"plugin '{offer.plugin}' ({offer.source}): {kind} '{offer.spec.name}' does not load: "
            f"{error}"
        )
    except Exception as error:  # e.g. torch itself is broken
        name = f"{kind} '{offer.spec.name}'"
        report.problems.append(f"{name} cannot be checked: {_line(error)}.")


_LOADERS: dict[str, Callable[..., object]] = {
    "generator": load_generator,
    "segmenter": load_segmenter,
    "reader": load_reader,
}


def _weights_of(module: str) -> list[Path]:
    """Weights files beside a plugin's module."""
    file = getattr(sys.modules.get(module), "__file__", None)
    return sorted(Path(file).parent.rglob("*.safetensors")) if file else []


def _attempt(report: Report, name: str, check: Callable[[], object]) -> None:
    try:
        check()
    except Sat3dError as error:
        report.problems.append(f"{name}: {error}")
    except Exception as error:  # e.g. torch itself is broken
        report.problems.append(f"{name} cannot be checked: {_line(error)}.")


def _check_pack(path: Path) -> None:
    from sat3d.descriptors import load_pack

    load_pack(path)


def _check_list(path: Path) -> None:
    from sat3d.weights_list import load_list

    load_list(path)


def _check_weights(path: Path) -> None:
    read_header(path)


def _line(error: Exception) -> str:
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def size_text(count: int) -> str:
    """Bytes in words: ``512 B``, ``3.4 MiB``, ``23.0 GiB``."""
    value = float(count)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"
