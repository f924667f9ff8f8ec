"""Methods of editing: ours, the classic ones, and two controls."""

from typing import TYPE_CHECKING

from sat3d.hookspecs import hookimpl
from sat3d.specs import EditorSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sat3d.interfaces import Editor


def _masks(options: "Mapping[str, str]") -> "Editor":
    from .blends import MasksEditor

    return MasksEditor(options)


def _region(options: "Mapping[str, str]") -> "Editor":
    from .blends import RegionEditor

    return RegionEditor(options)


def _swap(options: "Mapping[str, str]") -> "Editor":
    from .blends import SwapEditor

    return SwapEditor(options)


def _none(options: "Mapping[str, str]") -> "Editor":
    from .blends import NoEditor

    return NoEditor(options)


def _interfacegan(options: "Mapping[str, str]") -> "Editor":
    from .boundaries import InterFaceGANEditor

    return InterFaceGANEditor(options)


def _preim3d(options: "Mapping[str, str]") -> "Editor":
    from .boundaries import PREIM3DEditor

    return PREIM3DEditor(options)


def _styleclip(options: "Mapping[str, str]") -> "Editor":
    from .styleclip import StyleCLIPEditor

    return StyleCLIPEditor(options)


@hookimpl
def register_editors(register: "Callable[[EditorSpec], None]") -> None:
    """Offer all of them."""
    register(EditorSpec("masks", "learned masks on the style channels (ours)", _masks))
    register(EditorSpec("interfacegan", "linear boundaries in W, conditional", _interfacegan))
    register(EditorSpec("preim3d", "linear boundaries of inverted images, 3D", _preim3d))
    register(EditorSpec("styleclip", "global directions of a text-image model", _styleclip))
    register(EditorSpec("region", "swap of the channels of the attribute's region", _region))
    register(EditorSpec("swap", "swap of all editable channels: a control", _swap))
    register(EditorSpec("none", "no edit: a control", _none))
