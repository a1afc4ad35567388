"""Procedural objects: families of everyday things, so that tests, examples and recipes need nothing from outside.

A family turns a random generator into painted parts (paints.py) of simple solids (grammar.py). Up is +Y and sizes are
free: the loader normalises them. The same generator state gives the same object.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from trellis_app.training import shapes_household, shapes_outdoors
from trellis_app.training.library import LibraryObject, join

FAMILIES: dict[str, Callable[[np.random.Generator], list[LibraryObject]]] = {
    "axe": shapes_household.axe,
    "bottle": shapes_household.bottle,
    "car": shapes_outdoors.car,
    "chair": shapes_household.chair,
    "chest": shapes_household.chest,
    "house": shapes_outdoors.house,
    "lamp": shapes_household.lamp,
    "mug": shapes_household.mug,
    "mushroom": shapes_outdoors.mushroom,
    "robot": shapes_outdoors.robot,
    "rocket": shapes_outdoors.rocket,
    "sword": shapes_household.sword,
    "table": shapes_household.table,
    "teapot": shapes_household.teapot,
    "tower": shapes_outdoors.tower,
    "tree": shapes_outdoors.tree,
    "vase": shapes_household.vase,
}


def random_object(rng: np.random.Generator, family: str | None = None) -> LibraryObject:
    """A random object of a random (or the named) family."""
    name = family or str(rng.choice(sorted(FAMILIES)))
    return join(f"procedural/{name}", FAMILIES[name](rng))
