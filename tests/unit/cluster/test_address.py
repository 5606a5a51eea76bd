"""Which clusters may be spoken to, and what is said about the others."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tuner.environment import child_environment
from tuner.errors import UserError
from tuner.measure.cluster.address import COMMANDS, parse, settings


@pytest.fixture
def protected(tmp_path: Path) -> dict[str, str]:
    """An environment with all that a network needs."""
    for name in ("ca.crt", "node.crt", "node.key"):
        (tmp_path / name).write_text("a file")
    (tmp_path / "token").write_text("secret\n")
    return {
        "RAY_USE_TLS": "1", "RAY_TLS_CA_CERT": f"{tmp_path}/ca.crt", "RAY_TLS_SERVER_CERT": f"{tmp_path}/node.crt",
        "RAY_TLS_SERVER_KEY": f"{tmp_path}/node.key", "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": f"{tmp_path}/token", "HOME": "/root",
    }  # fmt: skip


@pytest.mark.parametrize(("text", "address", "loopback"), [
    ("127.0.0.1:6380", "127.0.0.1:6380", True),
    ("localhost:6380", "127.0.0.1:6380", True),
    ("10.0.0.7:6380", "10.0.0.7:6380", False),
    ("[fd00::7]:6380", "[fd00::7]:6380", False),
    ("localhost.evil.example:6380", "localhost.evil.example:6380", False),
])  # fmt: skip
def test_addresses(text: str, address: str, loopback: bool) -> None:
    assert (str(parse(text)), parse(text).loopback) == (address, loopback)


@pytest.mark.parametrize(
    "text", ["", "auto", "10.0.0.7", ":6380", "10.0.0.7:", "10.0.0.7:0", "10.0.0.7:65536", "ray://10.0.0.7:10001",
             "127.0.0.2:6380", "[::1]:6380"]
)  # fmt: skip
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(UserError) as raised:
        parse(text)
    assert raised.value.code == "bad-address"


def test_loopback_needs_nothing_and_stays_on_loopback() -> None:
    assert settings(parse("127.0.0.1:6380"), {})["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"


def test_a_network_with_certificates_and_a_token_is_spoken_to(protected: dict[str, str]) -> None:
    found = settings(parse("10.0.0.7:6380"), protected)
    assert {name: found.get(name) for name in protected if name != "HOME"} == {
        name: text for name, text in protected.items() if name != "HOME"
    }
    assert "HOME" not in found
    assert "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER" not in found


@pytest.mark.parametrize("name", ["RAY_USE_TLS", "RAY_TLS_CA_CERT", "RAY_TLS_SERVER_CERT", "RAY_TLS_SERVER_KEY",
                                  "RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"])  # fmt: skip
@pytest.mark.parametrize("change", ["absent", "empty", "wrong"])
def test_without_any_one_of_them_it_is_refused(protected: dict[str, str], name: str, change: str) -> None:
    if change == "absent":
        del protected[name]
    else:
        protected[name] = "" if change == "empty" else "/nowhere"
    with pytest.raises(UserError) as raised:
        settings(parse("10.0.0.7:6380"), protected)
    assert raised.value.code == "cluster-not-safe"
    assert name in raised.value.message
    assert "openssl x509 -req" in raised.value.hint and "IP:10.0.0.7" in raised.value.hint


def test_an_empty_token_is_none(protected: dict[str, str]) -> None:
    Path(protected["RAY_AUTH_TOKEN_PATH"]).write_text(" \n")
    with pytest.raises(UserError, match="gives a token"):
        settings(parse("10.0.0.7:6380"), protected)


def test_the_commands_make_what_is_asked_for(tmp_path: Path) -> None:
    """Run as they are printed; the certificate holds for the machine's address and was signed by the authority."""
    lines = [line.strip() for line in COMMANDS.format(host="10.0.0.7", san="IP").splitlines()]
    shell = "\n".join(line for line in lines if re.match(r"(openssl|printf|export)", line))
    names = "|".join(["RAY_USE_TLS", "RAY_TLS_[A-Z_]+", "RAY_AUTH_[A-Z_]+"])
    done = subprocess.run(
        ["bash", "-euc", f"{shell}\nenv | grep -E '^({names})='"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    environment = dict(line.split("=", 1) for line in done.stdout.splitlines())
    assert settings(parse("10.0.0.7:6380"), environment)["RAY_USE_TLS"] == "1"
    for file in ("token", "ca.key"):
        assert (tmp_path / file).stat().st_mode & 0o77 == 0, file
    verify = ["openssl", "verify", "-CAfile", "ca.crt", "-verify_ip", "10.0.0.7", "node.crt"]
    checked = subprocess.run(verify, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_no_candidate_sees_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    assert "secret" not in child_environment().values()
