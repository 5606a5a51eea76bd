"""float32 as tf32 holds it."""

from __future__ import annotations

import numpy as np


def round_tf32(values: np.ndarray) -> np.ndarray:
    """The nearest numbers with ten bits behind the point, ties away from zero (``cvt.rna.tf32.f32``)."""
    scaled, exponent = np.frexp(values.astype(np.float64))
    steps = np.abs(scaled) * 2.0**11
    return np.asarray(np.sign(scaled) * np.floor(steps + 0.5) * 2.0**-11 * np.exp2(exponent), np.float32)
