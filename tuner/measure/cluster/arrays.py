"""Arrays as bytes, by name. Nothing is unpickled from them."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Arrays = Mapping[str, np.ndarray]


def arrays_to_bytes(sets: Sequence[Arrays]) -> tuple[list[list[str]], bytes]:
    """The names of each set of arrays, and all arrays."""
    out = io.BytesIO()
    arrays: dict[str, Any] = {f"a{i}": a for i, a in enumerate(a for each in sets for a in each.values())}
    np.savez(out, **arrays)
    return [list(each) for each in sets], out.getvalue()


def arrays_from_bytes(names: Sequence[Sequence[str]], blob: bytes) -> list[dict[str, np.ndarray]]:
    """What ``arrays_to_bytes`` was given; nothing is unpickled."""
    with np.load(io.BytesIO(blob), allow_pickle=False) as stored:
        numbers = iter(range(len(stored.files)))
        return [{name: stored[f"a{next(numbers)}"] for name in each} for each in names]
