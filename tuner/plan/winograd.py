"""Winograd's minimal filtering F(m x m, 3 x 3): matrices and the weight transform. Numpy only.

Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2015): Y = A^T [(G g G^T) * (B^T d B)] A.
"""

from __future__ import annotations

import numpy as np

A_T = {
    2: ((1, 1, 1, 0), (0, 1, -1, -1)),
    4: ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1)),
}
B_T = {
    2: ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1)),
    4: (
        (4, 0, -5, 0, 1, 0),
        (0, -4, -4, 1, 1, 0),
        (0, 4, -4, -1, 1, 0),
        (0, -2, -1, 2, 1, 0),
        (0, 2, -1, -2, 1, 0),
        (0, 4, 0, -5, 0, 1),
    ),
}
G = {
    2: ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1)),
    4: (
        (1 / 4, 0, 0),
        (-1 / 6, -1 / 6, -1 / 6),
        (-1 / 6, 1 / 6, -1 / 6),
        (1 / 24, 1 / 12, 1 / 6),
        (1 / 24, -1 / 12, 1 / 6),
        (0, 0, 1),
    ),
}


def transform_weights(weights: np.ndarray, m: int) -> np.ndarray:
    """[OC, IC, 3, 3] -> [OC, IC, m+2, m+2], computed in float64."""
    g = np.asarray(G[m], dtype=np.float64)
    return np.asarray(np.einsum("ui,ocij,vj->ocuv", g, weights.astype(np.float64), g, optimize=True), weights.dtype)
