"""What `fusetune serve` makes of its options, and how it takes its port."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from db.urls import default_url, full_url, parse_url
from service.cli import _parser, main
from service.commands.serve import settings_of
from service.server import listen
from service.settings import Settings
from tuner.errors import UserError

ROOT = Path(__file__).parents[3]


def settings(*options: str) -> Settings:
    return settings_of(_parser().parse_args(["serve", *options]))


def code_of(call: Any, *args: Any) -> str:
    with pytest.raises(UserError) as raised:
        call(*args)
    return raised.value.code


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FUSETUNE_DB", "FUSETUNE_DB_PASSWORD", "FUSETUNE_DB_PASSWORD_FILE"):
        monkeypatch.delenv(name, raising=False)


def test_without_options_it_is_the_safe_default() -> None:
    made = settings()
    assert made == Settings()
    assert (made.auth, made.host) == (True, "127.0.0.1")


def test_every_option_arrives() -> None:
    made = settings(
        "--host", "0.0.0.0", "--port", "9000", "--root-path", "/tune", "--allowed-host", "a", "--allowed-host", "b",
        "--trust-proxy", "--https", "--rate", "7", "--max-upload", "1M", "--quota", "2G", "--retention-days", "30",
        "--jobs-per-device", "2", "--no-dispatch", "--log-json", "--db", "postgresql://x@y/z", "--data", "/d",
    )  # fmt: skip
    assert made == Settings(
        db="postgresql://x@y/z", data=Path("/d"), host="0.0.0.0", port=9000, root_path="/tune", secure=True,
        trust_proxy=True, max_upload=1 << 20, quota=2 << 30, retention_days=30.0, rate=7, jobs_per_device=2,
        dispatch=False, allowed_hosts=("a", "b"), log_json=True,
    )  # fmt: skip


def test_a_data_folder_holds_the_database_too_unless_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    made = settings("--data", "out")
    assert made.data == Path.cwd() / "out"
    assert made.db == f"sqlite:///{Path.cwd()}/out/fusetune.db"
    monkeypatch.setenv("FUSETUNE_DB", "postgresql://x@y/z")
    assert settings("--data", "out").db == "postgresql://x@y/z"
    assert settings("--data", "out", "--db", "sqlite:////tmp/a.db").db == "sqlite:////tmp/a.db"


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--no-auth", "--host", "0.0.0.0"], "bad-host"),
        (["--root-path", "tune"], "bad-root-path"),
        (["--root-path", "/tune/"], "bad-root-path"),
        (["--jobs-per-device", "0"], "bad-option"),
    ],
)
def test_what_cannot_be_is_refused(options: list[str], code: str) -> None:
    assert code_of(settings, *options) == code


def test_the_password_need_not_stand_in_the_url(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FUSETUNE_DB", "postgresql://fusetune@db/fusetune")
    assert parse_url(default_url()).password is None
    monkeypatch.setenv("FUSETUNE_DB_PASSWORD", "p@ss/w:rd")
    assert parse_url(default_url()).password == "p@ss/w:rd"
    full = full_url(default_url())
    monkeypatch.delenv("FUSETUNE_DB_PASSWORD")
    assert parse_url(full).password == "p@ss/w:rd"
    file = tmp_path / "password"
    file.write_text("from a file\n")
    monkeypatch.setenv("FUSETUNE_DB_PASSWORD_FILE", str(file))
    assert parse_url(default_url()).password == "from a file"
    assert parse_url("postgresql://fusetune:given@db/fusetune").password == "given"
    assert parse_url("sqlite:////tmp/a.db").password is None
    monkeypatch.setenv("FUSETUNE_DB_PASSWORD_FILE", str(tmp_path / "absent"))
    assert code_of(parse_url, default_url()) == "bad-database-url"


def test_a_port_in_use_is_said_before_anything_is_touched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        assert code_of(listen, "127.0.0.1", port) == "port-in-use"
        assert main(["serve", "--port", str(port), "--data", str(tmp_path / "data")]) == 2
    said = capsys.readouterr().err
    assert f"Port {port}" in said and "--port" in said
    assert not (tmp_path / "data").exists()
    # The socket listens from the first moment on: nobody else can take the port before the server answers.
    with listen("127.0.0.1", 0) as early, socket.create_connection(early.getsockname(), timeout=5):
        pass


@pytest.mark.parametrize(
    ("host", "port", "code"),
    [("203.0.113.1", 0, "bad-host"), ("no such host", 0, "bad-host"), ("127.0.0.1", 70000, "bad-port")],
)
def test_an_address_that_is_not_ours_is_said_to_be(host: str, port: int, code: str) -> None:
    assert code_of(listen, host, port) == code


def test_bad_options_of_the_demo_are_found_before_the_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = ["--data", str(tmp_path / "data"), "--port", "0"]
    assert main(["serve", "--demo", str(tmp_path / "absent.onnx"), *data]) == 2
    assert main(["serve", "--once", *data]) == 2
    said = capsys.readouterr().err
    assert "absent.onnx" in said and "--demo" in said
    assert not (tmp_path / "data").exists()


def test_the_server_process_carries_no_engine() -> None:
    heavy = ("tvm", "tvm_ffi", "numpy", "onnx", "onnxruntime", "optuna", "xgboost", "scipy")
    program = (
        "import sys, service.commands.serve, tuner.measure.device\n"
        f"found = sorted(set({heavy!r}) & set(sys.modules))\n"
        "assert not found, found\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
