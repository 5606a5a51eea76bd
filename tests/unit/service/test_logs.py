"""Log lines: ids from around and from the record, JSON for machines, no secrets in either form."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator

import pytest

from db.store import Store
from service import logs

log = logging.getLogger("service.test")


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name in (logs.ACCESS, *logs._NOISY):
        logging.getLogger(name).setLevel(logging.NOTSET)


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_a_line_carries_what_is_bound_around_it_and_what_comes_with_it(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up(json_lines=True)
    with logs.bind(job="j1", trial=None):
        with logs.bind(trial="t1"):
            log.info("measured %d", 3, extra={"request": "r1", "ms": 1.5})
        log.warning("on")
    log.info("off")
    first, second, third = lines(capsys)
    assert first["time"] and first["logger"] == "service.test"
    assert (first["message"], first["level"]) == ("measured 3", "info")
    assert (first["job"], first["trial"], first["request"], first["ms"]) == ("j1", "t1", "r1", 1.5)
    assert (second["job"], second["level"]) == ("j1", "warning")
    assert "trial" not in second and "job" not in third


def test_threads_do_not_share_what_they_bind(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up(json_lines=True)
    with logs.bind(job="mine"):
        other = threading.Thread(target=lambda: log.info("other"))
        other.start()
        other.join()
    assert "job" not in lines(capsys)[0]


def test_errors_keep_their_trace_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up(json_lines=True)
    try:
        raise ValueError("two\nlines")
    except ValueError:
        log.exception("it broke")
    (line,) = lines(capsys)
    assert "ValueError: two\nlines" in str(line["error"])


def test_people_see_ids_but_not_each_request(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up(json_lines=False)
    logging.getLogger(logs.ACCESS).info("GET / 200")
    log.warning("late", extra={"job": "j1", "ms": 3})
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("WARNING late  [job=j1]")


def test_setting_up_twice_writes_once(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up(json_lines=False)
    logs.set_up(json_lines=True)
    logging.getLogger(logs.ACCESS).info("GET / 200")
    assert len(lines(capsys)) == 1


@pytest.mark.parametrize("json_lines", [True, False])
def test_secrets_are_blanked_wherever_they_stand(
    capsys: pytest.CaptureFixture[str], json_lines: bool, tmp_path: object
) -> None:
    with Store.open(f"sqlite:///{tmp_path}/fusetune.db") as store:
        token, code = store.access.tokens.create("x")[1], store.access.codes.issue(60)
        session = store.access.codes.redeem(store.access.codes.issue(60))
    assert session is not None
    logs.set_up(json_lines=json_lines)
    log.info("Authorization: Bearer abc.def and GET /login?code=guess&x=1")
    log.info("%s %s %s", token, code, session, extra={"request": token})
    try:
        raise RuntimeError(f"cannot reach postgresql://fusetune:hunter2@db/fusetune with {token}")
    except RuntimeError:
        log.exception("no database")
    written = capsys.readouterr().err
    for secret in (token, code, session, "abc.def", "guess", "hunter2"):
        assert secret not in written
    assert "postgresql://fusetune:***@db/fusetune" in written
    assert "x=1" in written
