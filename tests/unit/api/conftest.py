"""A service without authentication and a client of it; ``service`` runs on SQLite, ``either`` on both databases."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from db.store import Store
from tests.api_server import Service, serving


@pytest.fixture(scope="session")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with all tables, to be copied: making one takes longer than most tests."""
    file = tmp_path_factory.mktemp("empty") / "fusetune.db"
    Store.open(f"sqlite:///{file}").close()
    return file


@pytest.fixture
def service(empty: Path, tmp_path: Path) -> Iterator[Service]:
    shutil.copy(empty, tmp_path / "fusetune.db")
    with serving(f"sqlite:///{tmp_path}/fusetune.db", tmp_path / "data") as made:
        yield made


@pytest.fixture
def client(service: Service) -> Iterator[TestClient]:
    with service.client() as made:
        yield made


@pytest.fixture(scope="session")
def calm(empty: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One service for all tests that change nothing in it."""
    folder = tmp_path_factory.mktemp("calm")
    shutil.copy(empty, folder / "fusetune.db")
    with serving(f"sqlite:///{folder}/fusetune.db", folder / "data") as made:
        made.model()
        yield made


@pytest.fixture(scope="session")
def reader(calm: Service) -> Iterator[TestClient]:
    """A client of the service that no test changes."""
    with calm.client() as made:
        yield made


@pytest.fixture
def either(url: str, tmp_path: Path) -> Iterator[Service]:
    with serving(url, tmp_path / "data") as made:
        yield made
