"""Files that travel between members by their content: what the other side has already is not sent again."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

PIECE = 16 << 20  # bytes sent at once
KEPT = 8 << 30  # bytes a machine keeps for others


def listing(path: Path) -> dict[str, str]:
    """Name below ``path`` -> SHA-256 of every file of a folder; of a single file under the name "" """
    if path.is_file():
        return {"": sha256(path)}
    return {str(p.relative_to(path)): sha256(p) for p in sorted(path.rglob("*")) if p.is_file()}


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Store:
    """Files by SHA-256 in a folder. For one thread."""

    def __init__(self, folder: Path, limit: int = KEPT) -> None:
        self._folder, self._limit = folder, limit
        folder.mkdir(parents=True, exist_ok=True)

    def missing(self, hashes: Iterable[str]) -> list[str]:
        """Those of the files that are not here; the others are kept for now."""
        lacking = []
        for hash in dict.fromkeys(hashes):
            path = self._path(hash)
            path.touch() if path.exists() else lacking.append(hash)
        return lacking

    def put(self, hash: str, offset: int, piece: bytes, last: bool) -> None:
        """Append a piece of a file. Raises ValueError when the pieces do not make up that file."""
        part = self._path(hash).with_suffix(".part")
        if offset == 0:
            part.unlink(missing_ok=True)
            self._make_room()
        if offset and (not part.exists() or part.stat().st_size != offset):
            raise ValueError("a piece of a file is missing")
        with part.open("ab") as file:
            file.write(piece)
        if last:
            if sha256(part) != hash:
                part.unlink()
                raise ValueError("a file arrived damaged")
            part.rename(self._path(hash))

    def lay_out(self, files: Mapping[str, str], path: Path) -> None:
        """Make ``listing(path)`` what it was where the files come from. Raises ValueError for names that lead away."""
        if set(files) == {""}:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.hardlink_to(self._path(files[""]))
            return
        for name, hash in files.items():
            target = path / name
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise ValueError(f"{name!r} is no name of a file below a folder")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.hardlink_to(self._path(hash))

    def _make_room(self) -> None:
        """The files used longest ago go."""
        found = sorted((p for p in self._folder.iterdir()), key=lambda p: p.stat().st_mtime)
        excess = sum(p.stat().st_size for p in found) - self._limit
        for path in found:
            if excess > 0:
                excess -= path.stat().st_size
                path.unlink()

    def _path(self, hash: str) -> Path:
        if not re.fullmatch(r"[0-9a-f]{64}", hash):
            raise ValueError("that is no SHA-256")
        return self._folder / hash


def clear(folder: Path) -> None:
    """Delete what was laid out."""
    shutil.rmtree(folder, ignore_errors=True)
