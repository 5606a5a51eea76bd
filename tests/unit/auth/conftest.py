"""Clients of a small app behind the real gate, on a real database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from auth_tools import Make, sign_in, small_app
from fastapi.testclient import TestClient

from db.store import Store
from service import auth
from service.settings import Settings


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(f"sqlite:///{tmp_path}/fusetune.db") as opened:
        yield opened


@pytest.fixture
def make(store: Store, tmp_path: Path) -> Make:
    """Makes a client of an app with these settings; ``client`` is the address that it comes from."""

    def client(*, client: str = "127.0.0.1", base: str = "http://127.0.0.1:8077", **settings: Any) -> TestClient:
        given = Settings(db="sqlite:///unused.db", data=tmp_path, **settings)
        app = small_app(given.root_path)
        auth.install(app, given, store)
        auth.shield(app, given)
        return TestClient(app, base_url=base, client=(client, 5000), follow_redirects=False)

    return client


@pytest.fixture
def signed_in(make: Make, store: Store) -> TestClient:
    client = make()
    sign_in(client, store)
    return client
