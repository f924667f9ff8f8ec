"""Procedural worlds: what can be drawn, with everything that is true of the pictures."""

from importlib import import_module

from recipes.worlds.world import World

NAMES = ("avatars", "avatars2d", "cats", "cars")


def load(name: str) -> World:
    """A world by name; raises ValueError for others than NAMES."""
    if name not in NAMES:
        raise ValueError(f"unknown world '{name}'. Known: {', '.join(NAMES)}.")
    world: World = import_module(f"recipes.worlds.{name}").WORLD
    return world
