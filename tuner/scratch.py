"""A folder for what lives no longer than the process that made it, however that ends. Standard library only."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from pathlib import Path

_PREFIX = "fusetune-held-"


class Scratch:
    """A fresh temporary folder, held by a file lock so that a later process can tell when its owner was killed.

    Making one sweeps away the folders whose owner is gone.
    """

    def __init__(self, root: Path | None = None) -> None:
        root = root or Path(tempfile.gettempdir())
        for path in root.glob(_PREFIX + "*"):
            _sweep(path)
        # Locked before it gets the name that others sweep.
        hidden = Path(tempfile.mkdtemp(prefix=".", dir=root))
        self._lock = os.open(hidden / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self.path = hidden.rename(root / (_PREFIX + hidden.name[1:]))
        self._held = True

    def remove(self) -> None:
        """Delete the folder. Idempotent."""
        if self._held:
            self._held = False
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._lock)


def _sweep(path: Path) -> None:
    try:
        fd = os.open(path / "lock", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return  # another user's, or being deleted
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(path, ignore_errors=True)
    except BlockingIOError:
        pass  # its owner lives
    finally:
        os.close(fd)
