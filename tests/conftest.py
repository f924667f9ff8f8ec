"""Shared by all tests: no network, no settings from outside, fake plugin distributions."""

import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may be fetched at run time; a test that tries fails instead of waiting."""

    def refuse(*_: Any) -> NoReturn:
        raise OSError("the tests have no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(autouse=True)
def _no_setting_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SAT3D_PLUGINS", raising=False)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what this machine cannot run."""
    for item in items:
        if item.get_closest_marker("parity") and not os.environ.get("SAT3D_PARITY"):
            item.add_marker(pytest.mark.skip(reason="SAT3D_PARITY names no folder"))
        if item.get_closest_marker("gpu") and not _has_gpu():
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


class Installer:
    """Puts a plugin distribution where the interpreter finds it, as pip would."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def install(self, distribution: str, code: str, point: str = "", version: str = "1.0") -> None:
        """One module with ``code`` and one entry point, named as the module unless given."""
        module = distribution.replace("-", "_")
        (self.folder / f"{module}.py").write_text(code)
        info = self.folder / f"{module}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n"
        )
        (info / "entry_points.txt").write_text(f"[sat3d]\n{point or module} = {module}\n")


@pytest.fixture
def installer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Installer]:
    """A fresh folder on the import path for fake distributions."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    before = set(sys.modules)
    yield Installer(folder)
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None) or ""
        if file.startswith(str(folder)):
            del sys.modules[name]
