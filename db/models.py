"""Models: what is known of an imported ONNX file. Its bytes are a blob elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, delete, select

from db.columns import now
from db.engine import Database
from db.schema import models


@dataclass(frozen=True)
class Model:
    """An imported ONNX file."""

    sha256: str  # of the file's bytes
    name: str
    layers: int
    macs: int  # multiply-accumulates of one run
    bytes: int  # size of the file
    created_at: datetime  # when it first came, UTC


class Models:
    """The models table. A model never changes; putting it again changes nothing."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, sha256: str, *, name: str, layers: int, macs: int, size: int) -> Model:
        """Store the model unless it is known, and give back what is stored. ``size`` in bytes."""
        row = {"sha256": sha256, "name": name, "layers": layers, "macs": macs, "bytes": size, "created_at": now()}
        with self._database.write() as connection:
            self._database.insert_missing(connection, models, row)
            return _model(connection.execute(select(models).where(models.c.sha256 == sha256)).one())

    def get(self, sha256: str) -> Model | None:
        """The model, or None."""
        with self._database.read() as connection:
            row = connection.execute(select(models).where(models.c.sha256 == sha256)).one_or_none()
        return None if row is None else _model(row)

    def list(self, *, limit: int = 100) -> list[Model]:
        """The newest models first."""
        query = select(models).order_by(models.c.created_at.desc(), models.c.sha256).limit(limit)
        with self._database.read() as connection:
            return [_model(row) for row in connection.execute(query)]

    def delete(self, sha256: str) -> bool:
        """Forget the model; its jobs and records stay. True if it was there."""
        with self._database.write() as connection:
            return connection.execute(delete(models).where(models.c.sha256 == sha256)).rowcount > 0


def _model(row: Row[Any]) -> Model:
    return Model(**row._mapping)
