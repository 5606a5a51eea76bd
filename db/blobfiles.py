"""Files as the blob store uses them: read in parts, made durable, and with the system's complaints made clear."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from tuner.errors import InternalError, UserError

_CHUNK = 2**20  # bytes read at once
_FULL = {errno.ENOSPC, errno.EDQUOT}


def parts(stream: Iterable[bytes] | BinaryIO) -> Iterator[bytes]:
    """What the stream gives, a file by megabytes."""
    read = getattr(stream, "read", None)
    if read is None:
        yield from stream
        return
    while part := read(_CHUNK):
        yield part


def files(folder: Path, within: Path) -> Iterator[tuple[Path, int, float]]:
    """File, bytes and time of the last change of the files in a folder; those that go meanwhile are left out."""
    with translated(folder), suppress(FileNotFoundError):
        with os.scandir(within) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    facts = entry.stat(follow_symlinks=False)
                    yield Path(entry.path), facts.st_size, facts.st_mtime


def sync(folder: Path) -> None:
    """Make the names in a folder durable."""
    held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(held)
    finally:
        os.close(held)


@contextmanager
def translated(folder: Path, unknown: str | None = None) -> Iterator[None]:
    """What the system says, in fusetune's words; ``unknown`` is the blob that a missing file would mean."""
    try:
        yield
    except FileNotFoundError as error:
        if unknown is not None:
            raise UserError(f"There is no blob {unknown}.", code="unknown-blob") from error
        raise _broken(folder, error) from error
    except OSError as error:
        if error.errno in _FULL:
            raise InternalError(
                f"The disk that holds {folder} is full.", code="storage-full", hint="Free space, or delete models."
            ) from error
        raise _broken(folder, error) from error


def _broken(folder: Path, error: OSError) -> InternalError:
    return InternalError(f"The blob folder {folder} cannot be used: {error.strerror or error}.", code="storage")
