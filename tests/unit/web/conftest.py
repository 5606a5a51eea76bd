"""The dashboard over a seeded store and over an empty one; pages are read as a browser's parser would."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from db.store import Store
from tests import service_seed
from tests.api_server import Service, serving
from tests.service_seed import Seeded

BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


@dataclass(frozen=True)
class Dashboard:
    """A service with things in it, and a client that asks as a browser does. No test changes it."""

    service: Service
    client: TestClient
    seeded: Seeded
    prefix: str


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Seeded]:
    """A seeded database file, to be copied."""
    file = tmp_path_factory.mktemp("seeded") / "fusetune.db"
    with Store.open(f"sqlite:///{file}") as store:
        return file, service_seed.seed(store)


def opened(database: tuple[Path, Seeded], folder: Path, prefix: str = "") -> Iterator[Dashboard]:
    shutil.copy(database[0], folder / "fusetune.db")
    with serving(f"sqlite:///{folder}/fusetune.db", folder / "data", root_path=prefix) as service:
        with service.client(headers=BROWSER) as client:
            yield Dashboard(service, client, database[1], prefix)


@pytest.fixture(scope="session")
def dashboard(database: tuple[Path, Seeded], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dashboard]:
    yield from opened(database, tmp_path_factory.mktemp("dashboard"))


@pytest.fixture(scope="session")
def behind_proxy(database: tuple[Path, Seeded], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dashboard]:
    """The same under a path prefix."""
    yield from opened(database, tmp_path_factory.mktemp("prefixed"), "/tools/fusetune")


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Service]:
    """A service that nobody used yet; its device is known, nothing drives it."""
    with serving(f"sqlite:///{tmp_path}/fusetune.db", tmp_path / "data") as service:
        yield service


@pytest.fixture
def browser(empty: Service) -> Iterator[TestClient]:
    """A browser at the empty service."""
    with empty.client(headers=BROWSER) as client:
        yield client
