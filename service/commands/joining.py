"""What commands that measure on a cluster share."""

from __future__ import annotations

from importlib.util import find_spec

from tuner.errors import UserError


def check_extra() -> None:
    """Raise UserError(code="no-ray") unless the extra is installed. Ray itself is not loaded."""
    if find_spec("ray") is None:
        raise UserError("Clusters need Ray, which is not installed.", code="no-ray",
                        hint="Install it with: pip install 'fusetune[cluster]'.")  # fmt: skip
