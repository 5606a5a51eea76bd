"""Models: what is known of an imported ONNX file. Its bytes are a blob elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import bindparam, literal, select, tuple_, update

from db.columns import Utc, now
from db.engine import AnyRow, Database
from db.paging import Page, cut, decode, encode
from db.schema import ENDED, jobs, models
from tuner.errors import UserError


@dataclass(frozen=True)
class Model:
    """An imported ONNX file."""

    sha256: str  # of the file's bytes
    name: str
    layers: int
    macs: int  # multiply-accumulates of one run
    bytes: int  # size of the file
    created_at: datetime  # when it first came, UTC
    inputs: tuple[Mapping[str, Any], ...]  # {"name", "dtype", "shape"} each
    outputs: tuple[Mapping[str, Any], ...]
    details: Mapping[str, Any] | None  # what an inspection found
    file: bool  # its bytes are stored; False = deleted, or never given to the service


_COLUMNS = [column for column in models.c if column.name != "graph"]
_ORDER = "models -created_at"
_GET = select(*_COLUMNS).where(models.c.sha256 == bindparam("id"))


class Models:
    """The models table. Name and size never change; what an inspection finds may, as inspections get better."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(
        self,
        sha256: str,
        *,
        name: str,
        layers: int,
        macs: int,
        size: int,
        inputs: Sequence[Mapping[str, Any]] = (),
        outputs: Sequence[Mapping[str, Any]] = (),
        details: Mapping[str, Any] | None = None,
        graph: Mapping[str, Any] | None = None,
        file: bool = True,
    ) -> Model:
        """Store the model and give back what is stored: a known one keeps its name, time and figures.

        ``size`` is in bytes. What was found of it (inputs to graph) is stored anew if ``details`` are given.
        """
        row: dict[str, Any] = {"sha256": sha256, "name": name, "layers": layers, "macs": macs, "bytes": size}
        found = {"inputs": list(inputs), "outputs": list(outputs), "details": details, "graph": graph}
        this = models.c.sha256 == sha256
        with self._database.write() as connection:
            self._database.insert_missing(connection, models, row | found | {"file": file, "created_at": now()})
            if file:
                connection.execute(update(models).where(this).values(file=True))
            if details is not None:
                connection.execute(update(models).where(this).values(**found))
            return _model(connection.execute(select(*_COLUMNS).where(this)).one())

    def get(self, sha256: str) -> Model | None:
        """The model, or None. A deleted one is still known, with ``file`` False."""
        with self._database.read() as connection:
            row = connection.execute(_GET, {"id": sha256}).one_or_none()
        return None if row is None else _model(row)

    def graph(self, sha256: str) -> Mapping[str, Any] | None:
        """The cleaned Graph of the model as JSON, or None; large, hence on its own."""
        with self._database.read() as connection:
            graph: Mapping[str, Any] | None = connection.execute(
                select(models.c.graph).where(models.c.sha256 == sha256)
            ).scalar()
        return graph

    def list(self, *, limit: int = 50, cursor: str | None = None) -> Page[Model]:
        """A page of the models whose files are there, the newest first.

        Raises:
            UserError: ``bad-cursor``.
        """
        age = (models.c.created_at, models.c.sha256)
        query = select(*_COLUMNS).where(models.c.file).order_by(*(column.desc() for column in age)).limit(limit + 1)
        if cursor is not None:
            created, sha256 = decode(_ORDER, cursor, datetime, str)
            query = query.where(tuple_(*age) < tuple_(literal(created, Utc()), literal(sha256, models.c.sha256.type)))
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        page = cut(rows, limit, lambda row: encode(_ORDER, row.created_at, row.sha256))
        return Page([_model(row) for row in page.items], page.next)

    def delete(self, sha256: str) -> bool:
        """Give up the model's file; what is known of it stays for its jobs and records. True if the file was there.

        Raises:
            UserError: jobs that have not ended need it (``model-in-use``).
        """
        unfinished = jobs.c.state.not_in([state.value for state in ENDED])
        with self._database.write() as connection:
            gone = update(models).where(models.c.sha256 == sha256, models.c.file).values(file=False)
            if connection.execute(gone).rowcount == 0:
                return False
            user = connection.execute(select(jobs.c.id).where(jobs.c.model == sha256, unfinished).limit(1)).scalar()
            if user is not None:
                raise UserError(
                    f"The model is needed by a job that has not ended ({user}).",
                    code="model-in-use",
                    hint="Cancel the job first, or wait for its end.",
                )
            return True


def _model(row: AnyRow) -> Model:
    return Model(**dict(row._mapping) | {"inputs": tuple(row.inputs), "outputs": tuple(row.outputs)})
