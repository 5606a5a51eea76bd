"""What a channel shuffle is: Reshape to groups of channels, Transpose, Reshape back. Standard library only."""

from __future__ import annotations

from typing import Any

SHUFFLE = ("Reshape", "Transpose", "Reshape")  # operators, one behind the other
_PERM = (0, 2, 1, 3, 4)


def is_shuffle(image: tuple[int, ...], split: tuple[int, ...], perm: Any, made: tuple[int, ...]) -> bool:
    """Whether shapes of what is read, of its groups and of the result, and an order of axes are a shuffle's."""
    whole = len(image) == 4 and made == image and len(split) == 5 and (split[0], *split[3:]) == (image[0], *image[2:])
    return whole and tuple(perm or ()) == _PERM
