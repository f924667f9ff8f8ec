"""checkpoint.safetensors: all that a stopped run needs to go on exactly as if it had not stopped.

Tensors and JSON only, so that reading one cannot run code.
"""

import json
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from sat3d.errors import InputError, MismatchError, Sat3dError
from sat3d.files import write_atomically
from sat3d.weights import read_header, save_weights

FILE = "checkpoint.safetensors"
_OPTIMISER = "optimiser."


@dataclass(frozen=True)
class Checkpoint:
    """State after ``step`` whole steps."""

    step: int
    matrix: Tensor
    """The trained tensor, as laid out for training."""
    optimiser: Mapping[str, Any]
    """The optimiser's own state dict."""
    random: Tensor
    """State of the random source: uint8."""
    progress: Mapping[str, Any]
    """Plain numbers of the training loop: best held-out loss and so on."""
    belongs: Mapping[str, Any]
    """What the run is made of: settings, pack, generator and so on."""


def save_checkpoint(path: Path, state: Checkpoint) -> None:
    """Write the checkpoint whole or not at all. Raises Sat3dError."""
    tensors = {"matrix": state.matrix, "random": state.random}
    plain: dict[str, Any] = {}
    for key, values in state.optimiser["state"].items():
        for name, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"{_OPTIMISER}{key}.{name}"] = value
            else:
                plain[f"{key}.{name}"] = value
    header = {
        "kind": "checkpoint",
        "step": state.step,
        "optimiser": {"groups": state.optimiser["param_groups"], "plain": plain},
        "progress": dict(state.progress),
        "belongs": dict(state.belongs),
    }
    save_weights(path, tensors, header)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint; all tensors on the CPU. Raises InputError."""
    header = read_header(path)
    if header.get("kind") != "checkpoint":
        raise InputError(f"'{path}' is not a checkpoint of 'sat3d train'. Start without --resume.")
    try:
        with safe_open(str(path), framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        optimiser = header["optimiser"]
        return Checkpoint(
            step=int(header["step"]),
            matrix=tensors["matrix"],
            optimiser={
                "state": _optimiser_state(tensors, optimiser["plain"]),
                "param_groups": optimiser["groups"],
            },
            random=tensors["random"],
            progress=header["progress"],
            belongs=header["belongs"],
        )
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise InputError(f"checkpoint '{path}' is damaged ({reason}). Start anew.") from None


def _optimiser_state(
    tensors: Mapping[str, Tensor], plain: Mapping[str, Any]
) -> dict[int, dict[str, Any]]:
    state: dict[int, dict[str, Any]] = {}
    own = {k.removeprefix(_OPTIMISER): v for k, v in tensors.items() if k.startswith(_OPTIMISER)}
    for key, value in {**own, **plain}.items():
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = value
    return state


def check_belongs(
    found: Mapping[str, Any], wanted: Mapping[str, Any], free: frozenset[str], path: Path
) -> None:
    """Raise MismatchError naming what differs between a checkpoint and the run that resumes it.

    Keys are dotted; those in ``free`` may differ.
    """
    one, two = _flatten(found), _flatten(wanted)
    keys = sorted(k for k in one.keys() | two.keys() if one.get(k) != two.get(k))
    keys = [k for k in keys if k not in free]
    if keys:
        shown = ", ".join(f"{k}: {one.get(k)!r} then, {two.get(k)!r} now" for k in keys[:3])
        raise MismatchError(
            f"checkpoint '{path}' is of another run ({shown}). Resume with the same generator, "
            "pack and settings, or start anew with --overwrite."
        )


def _flatten(data: Any, prefix: str = "") -> dict[str, Any]:
    """Nested plain data to {dotted key: scalar}; lists by position."""
    if isinstance(data, Mapping):
        items = [(str(k), v) for k, v in data.items()]
    elif isinstance(data, (list, tuple)):
        items = [(str(k), v) for k, v in enumerate(data)]
    else:
        return {prefix.rstrip("."): data}
    flat: dict[str, Any] = {}
    for key, value in items:
        flat.update(_flatten(value, f"{prefix}{key}."))
    return flat


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C back until the block is done, so that no step is left half-made.

    Outside the main thread, where signals do not arrive, it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pressed: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: pressed.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before if before is not None else signal.default_int_handler)
    if pressed:
        raise KeyboardInterrupt


def append_line(path: Path, data: Mapping[str, Any]) -> None:
    """Add one JSON line to a file. Raises Sat3dError with the system's reason."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(data) + "\n")
    except OSError as error:
        raise Sat3dError(
            f"cannot write '{path}': {error.strerror}. Free space or choose --out."
        ) from None


def trim_lines(path: Path, step: int) -> None:
    """Drop the lines of steps that the checkpoint does not contain; a new run drops all."""
    if not path.exists():
        return
    kept = [x for x in path.read_text(encoding="utf-8").splitlines() if _step_of(x) <= step]
    write_atomically(path, "".join(f"{line}\n" for line in kept).encode())


def _step_of(line: str) -> float:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        # A line cut short by a crash belongs to no step.
        return float("inf")
