"""Offers every descriptor pack (YAML file) of this folder; its first line says what it is."""

from collections.abc import Callable
from pathlib import Path

from sat3d import hookimpl
from sat3d.specs import DescriptorSpec


@hookimpl
def register_descriptors(register: Callable[[DescriptorSpec], None]) -> None:
    """One offer per file, named by the file's stem."""
    for path in sorted(Path(__file__).parent.glob("*.yaml")):
        with path.open(encoding="utf-8") as file:
            summary = file.readline().strip("# \n")
        register(DescriptorSpec(path.stem, summary, path))
