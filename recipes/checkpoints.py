"""The last few checkpoints of a run: one goes on from the newest that is whole and finite."""

import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

KEPT = 3


class History:
    """Files beside one another: NAME.checkpoint.pt is the newest, .1.pt and .2.pt are older."""

    def __init__(self, folder: Path, name: str) -> None:
        self.paths = [folder / f"{name}.checkpoint.pt"]
        self.paths += [folder / f"{name}.checkpoint.{k}.pt" for k in range(1, KEPT)]

    def save(self, state: dict[str, Any]) -> bool:
        """Write a state and drop the oldest; False, and nothing is written, if it is not finite."""
        if not all(x.isfinite().all() for x in _tensors(state) if x.is_floating_point()):
            return False
        newest = self.paths[0]
        newest.parent.mkdir(parents=True, exist_ok=True)
        beside = newest.with_suffix(".part")
        torch.save(state, beside)
        for older, younger in zip(self.paths[:0:-1], self.paths[-2::-1], strict=True):
            if younger.is_file():
                younger.replace(older)
        beside.replace(newest)
        return True

    def load(self, device: str, skip: int = 0) -> dict[str, Any] | None:
        """The newest readable state, or one ``skip`` older where there is one; None without any."""
        found = None
        for path in self.paths:
            try:
                state = torch.load(path, map_location=device, weights_only=True)
            except (OSError, RuntimeError, EOFError, pickle.UnpicklingError):
                continue
            found = state
            if skip <= 0:
                break
            skip -= 1
        return found

    def forget(self) -> None:
        """Remove all files."""
        for path in self.paths:
            path.unlink(missing_ok=True)


def _tensors(value: Any) -> Iterable[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors(item)
