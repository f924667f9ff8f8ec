"""Shared by all tests: no network, no settings from outside, fake plugin distributions."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch

os.environ["HF_HUB_OFFLINE"] = "1"
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is first imported


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
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(scope="session")
def pip_install() -> Callable[..., None]:
    """Installs packages from their folders into another folder; nothing is downloaded."""

    def install(target: Path, *packages: Path) -> None:
        options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
        call = [sys.executable, "-m", "pip", "install", *options, "--target", target]
        done = subprocess.run([*call, *packages], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    return install


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


def toy_plugin() -> object:
    """Offers the toys; 'flat' is the same generator in 2D, 'other' has other weights."""
    from dataclasses import replace

    from sat3d.hookspecs import hookimpl
    from sat3d.interfaces import WeightsCard
    from sat3d.specs import GeneratorSpec, ReaderSpec, SegmenterSpec
    from sat3d.testing import ToyGenerator, ToyReader, ToySegmenter

    def load(weights: Any, device: Any) -> ToyGenerator:
        generator = ToyGenerator(is_3d=True)
        roles = {"reader": "toy", "segmenter": "toy"}
        generator.card = replace(generator.card, goes_with=roles)
        return generator

    def load_other(weights: Any, device: Any) -> ToyGenerator:
        generator = ToyGenerator(is_3d=True)
        generator.card = WeightsCard("other", "0" * 64)
        return generator

    class ToyPlugin:
        @hookimpl
        def register_generators(self, register: Callable[[GeneratorSpec], None]) -> None:
            register(GeneratorSpec("toy", "stripes", load))
            register(GeneratorSpec("flat", "stripes in 2D", lambda w, d: ToyGenerator()))
            register(GeneratorSpec("other", "stripes of other weights", load_other))

        @hookimpl
        def register_segmenters(self, register: Callable[[SegmenterSpec], None]) -> None:
            register(SegmenterSpec("toy", "stripes", lambda w, d: ToySegmenter()))

        @hookimpl
        def register_readers(self, register: Callable[[ReaderSpec], None]) -> None:
            register(ReaderSpec("toy", "stripes", lambda w, d: ToyReader()))

    return ToyPlugin()


@pytest.fixture
def toys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """In an empty folder, with the toys as the only plugin, and room for long lines."""
    from sat3d.registry import registered

    monkeypatch.setenv("SAT3D_PLUGINS", "")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    with registered("toys", toy_plugin()):
        yield
