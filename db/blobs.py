"""Blobs: models and artifacts as files named by the SHA-256 of their content, shared by several server processes.

Layout of the folder: ``ab/cdef...`` (the first two hex digits are a folder), ``tmp/`` for what is still being written.
The blobs table says what is there and when it was last put, so that usage and garbage are found without a walk.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import secrets
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from sqlalchemy import ColumnElement, Connection, delete, exists, func, select, text

from db.blobfiles import files, parts, sync, translated
from db.columns import db_time
from db.engine import Database
from db.rows import chunks
from db.schema import blobs, job_files, models
from tuner.errors import InternalError, UserError

_RECOUNT = 2**26  # bytes of one upload after which the room left is counted again
_HASH = re.compile("[0-9a-f]{64}")
_LOCK_KEY = 0x626C6F62  # PostgreSQL advisory locks are numbers; any fixed one will do


@dataclass(frozen=True)
class Blob:
    """Content that is stored."""

    sha256: str
    size: int  # bytes


class Blobs:
    """Content-addressed files with a quota.

    Safe for threads, processes and machines that share the folder and the database. A kill at any moment leaves nothing
    under a hash but the right content; unfinished files are removed by ``collect``. A blob is kept as long as a row of
    models or of job_files names it, and for a grace period after it was put: so whoever puts one writes such a row
    afterwards, and asks ``has`` once the row is committed if somebody may ``delete`` the same content meanwhile.

    Every change is one transaction on the blob's row, with the file changed inside it. A row whose file is missing, and
    a file without row, are what a kill may leave; the next ``put`` or ``collect`` sets them right.

    Any call may raise InternalError: ``storage-full`` (quota or disk), ``storage`` (the folder is broken), and what
    Database raises.
    """

    def __init__(self, folder: Path, store: Database, quota: int | None = None) -> None:
        """Makes the folder. ``quota`` limits all blobs together, in bytes."""
        self.folder, self.quota = folder, quota
        self._store = store
        with translated(folder):
            self.unfinished.mkdir(parents=True, exist_ok=True)

    @property
    def unfinished(self) -> Path:
        """Where content is written before it has its name."""
        return self.folder / "tmp"

    def put(self, stream: Iterable[bytes] | BinaryIO, limit: int | None = None) -> Blob:
        """Store what the stream gives, which is never in memory as a whole; known content is stored once.

        Raises:
            UserError: more than ``limit`` bytes came (``too-large``).
        """
        with self.upload(limit) as upload:
            for part in parts(stream):
                upload.write(part)
            return upload.commit()

    def upload(self, limit: int | None = None) -> Upload:
        """For content that comes by and by: a context manager to ``write`` to and at the end ``commit``."""
        return Upload(self, limit)

    def open(self, sha256: str) -> BinaryIO:
        """The content. A blob deleted meanwhile can be read to its end.

        Raises:
            UserError: there is no such blob, or this is no hash (``unknown-blob``).
        """
        file = self._file(sha256)
        with translated(self.folder, unknown=sha256):
            return file.open("rb")

    def path(self, sha256: str) -> Path:
        """Where the content is.

        Raises:
            UserError: there is no such blob, or this is no hash (``unknown-blob``).
        """
        file = self._file(sha256)
        with translated(self.folder, unknown=sha256):
            file.stat()
        return file

    def has(self, sha256: str) -> bool:
        """Whether the content is here. True stays true as long as a row that was committed before names it."""
        file = self._file(sha256)
        # On PostgreSQL the lock waits for a deletion under way; SQLite has one writer anyway.
        query = select(blobs.c.sha256).where(blobs.c.sha256 == sha256).with_for_update(read=True)
        with self._store.read() as connection:
            return connection.execute(query).first() is not None and file.exists()

    def delete(self, sha256: str, grace_seconds: float | None = None) -> bool:
        """Free the blob at once unless a row still names it, or it was put within the grace period; True if it is
        gone by this call."""
        return self._delete(sha256, grace_seconds)

    def usage(self) -> int:
        """Bytes of all blobs."""
        with self._store.read() as connection:
            return _usage(connection)

    def room(self) -> int | None:
        """Bytes that the quota leaves, unfinished uploads taken off too; None without a quota."""
        if self.quota is None:
            return None
        return max(0, self.quota - self.usage() - sum(size for _, size, _ in files(self.folder, self.unfinished)))

    def collect(self, grace_seconds: float = 3600.0) -> tuple[int, int]:
        """Delete blobs that no row names and nobody put within the grace period, and files left by killed writers.

        Gives back how many were deleted and their bytes.
        """
        count = freed = 0
        old = time.time() - grace_seconds
        for file, size, changed in files(self.folder, self.unfinished):
            if changed < old and self._abandoned(file):
                count, freed = count + 1, freed + size
        self._adopt()
        garbage = select(blobs.c.sha256, blobs.c.size).where(
            _unneeded(), blobs.c.touched_at <= db_time() - grace_seconds
        )
        with self._store.read() as connection:
            found = connection.execute(garbage).all()
        for row in found:
            if self._delete(row.sha256, grace_seconds):
                count, freed = count + 1, freed + row.size
        return count, freed

    def keep(self, unfinished: Path, blob: Blob) -> None:
        """Give finished content its name, or leave what has it already; either way it counts as put now."""
        file = self._file(blob.sha256)
        row = {"sha256": blob.sha256, "size": blob.size, "touched_at": db_time()}
        with translated(self.folder):
            file.parent.mkdir(exist_ok=True)
            with self._store.write() as connection:
                if self.quota is not None:
                    self._check_quota(connection, blob)
                self._store.upsert(connection, blobs, row, update=("size", "touched_at"))
                if not file.exists() or file.stat().st_size != blob.size:
                    unfinished.rename(file)
            # Before anybody relies on it; another process may have made the folder or the name and not got so far yet.
            sync(file.parent)
            sync(self.folder)

    def full(self) -> InternalError:
        """The error of an upload that the quota does not allow."""
        return InternalError(
            f"The storage for models and artifacts is full: its quota is {self.quota} bytes.",
            code="storage-full",
            hint="Delete models or finished jobs, or raise the quota.",
        )

    def _check_quota(self, connection: Connection, blob: Blob) -> None:
        # Uploads at one time may each have found room: they are looked at one by one.
        if not self._store.sqlite:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK_KEY})
        known = connection.execute(select(blobs.c.sha256).where(blobs.c.sha256 == blob.sha256)).first()
        if known is None and self.quota is not None and _usage(connection) + blob.size > self.quota:
            raise self.full()

    def _delete(self, sha256: str, grace_seconds: float | None) -> bool:
        """Delete unless it is needed or, with a grace period, was put within it."""
        file = self._file(sha256)
        statement = delete(blobs).where(blobs.c.sha256 == sha256, _unneeded())
        if grace_seconds is not None:
            statement = statement.where(blobs.c.touched_at <= db_time() - grace_seconds)
        # The row's lock is held until the file is gone: a put at the same time comes before or after, never between.
        with translated(self.folder), self._store.write() as connection:
            if connection.execute(statement).rowcount == 0:
                return False
            file.unlink(missing_ok=True)
        return True

    def _adopt(self) -> None:
        """Give files without a row one, so that they are deleted like all others when they are not used."""
        with translated(self.folder):
            shards = [Path(entry.path) for entry in os.scandir(self.folder) if len(entry.name) == 2]
        for batch in chunks(entry for shard in shards for entry in files(self.folder, shard)):
            sizes = {file.parent.name + file.name: size for file, size, _ in batch}
            with self._store.read() as connection:
                known = connection.execute(select(blobs.c.sha256).where(blobs.c.sha256.in_(list(sizes)))).scalars()
                strays = sizes.keys() - set(known)
            for sha256 in strays:
                row = {"sha256": sha256, "size": sizes[sha256], "touched_at": db_time()}
                with self._store.write() as connection:
                    # It may have been deleted meanwhile; now it cannot be.
                    if _HASH.fullmatch(sha256) and self._file(sha256).exists():
                        self._store.insert_missing(connection, blobs, row)

    def _abandoned(self, file: Path) -> bool:
        """Remove an unfinished file if its writer, who holds a lock on it, is dead."""
        with translated(self.folder), suppress(FileNotFoundError, BlockingIOError), file.open("rb") as held:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.unlink()
            return True
        return False

    def _file(self, sha256: str) -> Path:
        if _HASH.fullmatch(sha256) is None:
            raise UserError(f"{sha256[:80]!r} is not a SHA-256 in hexadecimal digits.", code="unknown-blob")
        return self.folder / sha256[:2] / sha256[2:]


class Upload:
    """Content on its way. Left without ``commit`` it leaves nothing. Not thread-safe: one call at a time."""

    def __init__(self, blobs: Blobs, limit: int | None) -> None:
        self._blobs, self._limit = blobs, limit
        self._hash, self._size = hashlib.sha256(), 0
        self._room, self._recount = blobs.room(), _RECOUNT
        self._file = blobs.unfinished / secrets.token_hex(16)
        with translated(blobs.folder):
            blobs.unfinished.mkdir(exist_ok=True)
            self._out = self._file.open("xb", buffering=0)
            fcntl.flock(self._out, fcntl.LOCK_EX)  # tells collect() that somebody still writes

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return self._size

    def write(self, part: bytes) -> None:
        """Add bytes.

        Raises:
            UserError: the limit is exceeded (``too-large``).
            InternalError: no room is left (``storage-full``).
        """
        self._size += len(part)
        if self._limit is not None and self._size > self._limit:
            raise UserError(f"The upload is larger than the {self._limit} bytes that are allowed.", code="too-large")
        if self._room is not None:
            if self._size > self._recount:
                others = (self._blobs.room() or 0) + self._size - len(part)
                self._room, self._recount = others, self._size + _RECOUNT
            if self._size > self._room:
                raise self._blobs.full()
        self._hash.update(part)
        with translated(self._blobs.folder):
            view = memoryview(part)
            while view:
                view = view[self._out.write(view) :]

    def commit(self) -> Blob:
        """Make the content durable and give it its name."""
        blob = Blob(self._hash.hexdigest(), self._size)
        with translated(self._blobs.folder):
            os.fsync(self._out)
        self._blobs.keep(self._file, blob)
        return blob

    def __enter__(self) -> Upload:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._out.close()
        with suppress(FileNotFoundError):
            self._file.unlink()


def _unneeded() -> ColumnElement[bool]:
    """No model and no job needs the blob."""
    model = exists().where(models.c.sha256 == blobs.c.sha256, models.c.file)
    file = exists().where(job_files.c.sha256 == blobs.c.sha256)
    return ~model & ~file


def _usage(connection: Connection) -> int:
    return int(connection.execute(select(func.coalesce(func.sum(blobs.c.size), 0))).scalar_one())
