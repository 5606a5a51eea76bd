"""`fusetune token`: what it prints is what the server then takes."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from db.store import Store
from service.cli import main


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.delenv("FUSETUNE_DB", raising=False)
    monkeypatch.delenv("FUSETUNE_URL", raising=False)
    return str(tmp_path)


def opened(data: str) -> Store:
    return Store.open(f"sqlite:///{data}/fusetune.db")


def test_a_created_token_is_let_in_and_a_revoked_one_is_not(data: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["token", "create", "ci", "--role", "read", "--data", data]) == 0
    said = capsys.readouterr()
    secret = said.out.strip()  # alone on stdout, so that a script can take it
    with opened(data) as store:
        token = store.access.tokens.check(secret)
        assert token is not None and (token.name, token.role) == ("ci", "read")
        assert main(["token", "revoke", token.id, "--data", data]) == 0
        assert store.access.tokens.check(secret) is None


def test_the_list_shows_everything_but_the_secret(data: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["token", "list", "--data", data]) == 0
    assert "fusetune token create" in capsys.readouterr().out
    assert main(["token", "create", "ci", "--json", "--data", data]) == 0
    created = json.loads(capsys.readouterr().out)
    assert (created["name"], created["role"]) == ("ci", "full")
    for options in ([], ["--json"], ["--all"]):
        assert main(["token", "list", "--data", data, *options]) == 0
        shown = capsys.readouterr().out
        assert created["id"] in shown and "ci" in shown
        assert created["secret"] not in shown
    main(["token", "revoke", created["id"], "--data", data])
    capsys.readouterr()
    main(["token", "list", "--json", "--data", data])
    assert json.loads(capsys.readouterr().out) == []
    main(["token", "list", "--json", "--all", "--data", data])
    assert json.loads(capsys.readouterr().out)[0]["revoked_at"]


def test_a_link_signs_one_browser_in(data: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["token", "login", "--url", "https://tune.example/prefix/", "--data", data]) == 0
    link = urlsplit(capsys.readouterr().out.strip())
    assert f"{link.scheme}://{link.netloc}{link.path}" == "https://tune.example/prefix/login"
    (code,) = parse_qs(link.query)["code"]
    with opened(data) as store:
        assert store.access.codes.redeem(code)
        assert store.access.codes.redeem(code) is None


def test_bad_input_is_one_sentence_and_code_2(data: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["token", "revoke", "nothing", "--data", data]) == 2
    assert "no token 'nothing'" in capsys.readouterr().err
    assert main(["token", "create", " ", "--data", data]) == 2
    assert main(["token", "list", "--db", "mysql://x/y"]) == 2
    with pytest.raises(SystemExit) as bad:
        main(["token", "create", "ci", "--role", "admin", "--data", data])
    assert bad.value.code == 2
