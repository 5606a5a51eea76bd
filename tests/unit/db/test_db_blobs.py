"""The blob store: content by its hash, quota, kills at any moment, garbage, and several processes at once."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import random
import signal
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from db_values import new_job
from sqlalchemy import text

from db.blobs import Blob, Blobs
from db.schema import job_files, models
from db.store import Store
from tuner.errors import InternalError, UserError

ROOT = Path(__file__).parents[3]
MIB = 2**20

# Puts contents by their number and prints each hash once it is stored.
WRITER = """
import sys
from pathlib import Path
from db.blobs import Blobs
from db.store import Store
with Store.open(sys.argv[1]) as store:
    blobs = Blobs(Path(sys.argv[2]), store.database)
    print("ready", flush=True)
    for line in iter(sys.stdin.readline, ""):
        first, count, size = map(int, line.split())
        for number in range(first, first + count):
            part = bytes([number % 256]) * size + number.to_bytes(8, "big")
            print(blobs.put([part[at : at + 65536] for at in range(0, len(part), 65536)]).sha256, flush=True)
"""


def content(number: int, size: int) -> bytes:
    return bytes([number % 256]) * size + number.to_bytes(8, "big")


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def blobs(store: Store, tmp_path: Path) -> Blobs:
    return Blobs(tmp_path / "blobs", store.database)


def writer(url: str, folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, url, str(folder)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def tell(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(line + "\n")


def age(store: Store, seconds: float) -> None:
    with store.database.write() as connection:
        connection.execute(text(f"UPDATE blobs SET touched_at = touched_at - {seconds}"))


def need(store: Store, blob: Blob, *, model: bool = False) -> None:
    """Let a model or a job's file refer to the blob."""
    if model:
        store.models.put(blob.sha256, name="m", layers=1, macs=1, size=blob.size)
        return
    row = {"job": new_job(store), "name": "plan.json", "sha256": blob.sha256, "size": blob.size, "media_type": "x"}
    with store.database.write() as connection:
        connection.execute(job_files.insert().values(**row))


def files(blobs: Blobs) -> list[Path]:
    return sorted(path for path in blobs.folder.rglob("*") if path.is_file())


def check(blobs: Blobs) -> set[str]:
    """The hashes in the folder, each with the right content under it."""
    found = set()
    for path in files(blobs):
        if path.parent != blobs.unfinished:
            name = path.parent.name + path.name
            assert sha256(path.read_bytes()) == name
            found.add(name)
    return found


def code(error: type[Exception], call: Any, *arguments: Any, **options: Any) -> str:
    with pytest.raises(error) as caught:
        call(*arguments, **options)
    return str(caught.value.code)  # type: ignore[attr-defined]


def test_what_is_put_can_be_read_by_its_hash(blobs: Blobs) -> None:
    data = b"some bytes\n" * 1000
    for stream in (io.BytesIO(data), iter([data[:5], b"", data[5:]]), [data]):
        blob = blobs.put(stream)
        assert blob == Blob(sha256(data), len(data))
    assert blobs.open(blob.sha256).read() == blobs.path(blob.sha256).read_bytes() == data
    assert blobs.has(blob.sha256)
    assert len(files(blobs)) == 1
    assert blobs.usage() == len(data)
    assert blobs.put([]) == Blob(sha256(b""), 0)


@pytest.mark.parametrize(
    "name", ["", "ab", "../../etc/passwd", "AB" * 32, "ab" * 33, "ab" * 31 + "/.", "ab" * 32 + "\n", "\0" * 64]
)
def test_what_is_no_hash_names_no_blob(blobs: Blobs, name: str) -> None:
    for call in (blobs.open, blobs.path, blobs.has, blobs.delete):
        assert code(UserError, call, name) == "unknown-blob"


def test_what_is_not_there(blobs: Blobs) -> None:
    absent = "ab" * 32
    assert code(UserError, blobs.open, absent) == code(UserError, blobs.path, absent) == "unknown-blob"
    assert not blobs.has(absent) and not blobs.delete(absent)


def test_a_large_stream_is_never_in_memory_as_a_whole(blobs: Blobs) -> None:
    def stream() -> Iterator[bytes]:
        for number in range(64):
            yield bytes([number]) * MIB

    blobs.put([b"warm"])
    tracemalloc.start()
    try:
        assert blobs.put(stream()).size == 64 * MIB
        assert tracemalloc.get_traced_memory()[1] < 8 * MIB
    finally:
        tracemalloc.stop()


def test_more_than_the_limit_is_refused_and_leaves_nothing(blobs: Blobs) -> None:
    asked = []

    def stream() -> Iterator[bytes]:
        for _ in range(100):
            asked.append(1)
            yield b"x" * 10

    assert code(UserError, blobs.put, stream(), 35) == "too-large"
    assert len(asked) == 4  # the rest is not even read
    assert files(blobs) == [] and blobs.usage() == 0
    assert blobs.put([b"x" * 35], limit=35).size == 35


def test_a_stream_that_breaks_leaves_nothing(blobs: Blobs) -> None:
    def stream() -> Iterator[bytes]:
        yield b"x" * 100
        raise ConnectionResetError("the client is gone")

    with pytest.raises(ConnectionResetError):
        blobs.put(stream())
    with blobs.upload() as upload:
        upload.write(b"never committed")
    assert files(blobs) == [] and blobs.usage() == 0


def test_the_quota_is_kept(store: Store, tmp_path: Path) -> None:
    blobs = Blobs(tmp_path / "blobs", store.database, quota=1000)
    first = blobs.put([b"a" * 600])
    assert blobs.room() == 400
    assert code(InternalError, blobs.put, [b"b" * 200, b"c" * 201]) == "storage-full"
    assert len(files(blobs)) == 1
    blobs.put([b"b" * 400])
    assert blobs.room() == 0
    assert code(InternalError, blobs.put, [b"x"]) == "storage-full"
    assert blobs.delete(first.sha256)
    assert blobs.room() == 600
    assert Blobs(tmp_path / "other", store.database).room() is None


def test_uploads_at_one_time_share_the_quota(store: Store, tmp_path: Path) -> None:
    blobs = Blobs(tmp_path / "blobs", store.database, quota=1000)
    with blobs.upload() as one, blobs.upload() as two:
        one.write(b"a" * 600)  # both found room for 1000 bytes when they began
        two.write(b"b" * 600)
        assert blobs.room() == 0
        one.commit()
        assert code(InternalError, two.commit) == "storage-full"
    assert blobs.usage() == 600 and len(files(blobs)) == 1


def test_the_quota_of_many_uploads_at_once(store: Store, tmp_path: Path) -> None:
    refused = []

    def put(number: int) -> None:
        try:
            Blobs(tmp_path / "blobs", store.database, quota=1000).put([content(number, 192)])
        except InternalError as error:
            refused.append(error.code)

    threads = [threading.Thread(target=put, args=[number]) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    blobs = Blobs(tmp_path / "blobs", store.database)
    assert set(refused) == {"storage-full"} and len(refused) >= 7
    assert blobs.usage() == 200 * (12 - len(refused)) == sum(path.stat().st_size for path in files(blobs))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize(("owner", "call"), [(os, "fsync"), (Path, "rename")])
def test_a_full_disk_has_a_clear_reason_and_leaves_nothing(
    blobs: Blobs, monkeypatch: pytest.MonkeyPatch, owner: Any, call: str, number: int
) -> None:
    def full(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(owner, call, full)
        assert code(InternalError, blobs.put, [b"y" * 100]) == "storage-full"
    assert files(blobs) == [] and blobs.usage() == 0
    blobs.put([b"y" * 100])


def test_a_disk_that_fills_while_bytes_come(blobs: Blobs, monkeypatch: pytest.MonkeyPatch) -> None:
    with Path("/dev/full").open("wb", buffering=0) as full, blobs.upload() as upload:
        upload.write(b"y" * 100)
        with monkeypatch.context() as patched:
            patched.setattr(upload, "_out", full)
            assert code(InternalError, upload.write, b"y" * 100) == "storage-full"
    assert files(blobs) == [] and blobs.usage() == 0


def test_a_folder_that_cannot_be_used_is_named(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    assert code(InternalError, Blobs, tmp_path / "file", store.database) == "storage"


def test_deleting_spares_what_is_needed(store: Store, blobs: Blobs) -> None:
    model, artifact, free = (blobs.put([name]) for name in (b"model", b"artifact", b"free"))
    need(store, model, model=True)
    need(store, artifact)
    with blobs.open(free.sha256) as held:
        assert [blobs.delete(blob.sha256) for blob in (model, artifact, free)] == [False, False, True]
        assert held.read() == b"free"
    assert check(blobs) == {model.sha256, artifact.sha256}
    assert store.models.delete(model.sha256)
    assert blobs.delete(model.sha256) and not blobs.has(model.sha256)


def test_collecting_deletes_what_is_old_and_not_needed(store: Store, blobs: Blobs) -> None:
    model, artifact, old, again = (blobs.put([name]) for name in (b"model", b"artifact", b"old", b"again"))
    need(store, model, model=True)
    need(store, artifact)
    assert blobs.collect(grace_seconds=1000) == (0, 0)
    age(store, 1001)
    young = blobs.put([b"young"])
    blobs.put([b"again"])  # whoever put it may be about to refer to it
    assert blobs.collect(grace_seconds=1000) == (1, len(b"old"))
    assert check(blobs) == {blob.sha256 for blob in (model, artifact, again, young)}
    with store.database.write() as connection:
        connection.execute(text("DELETE FROM jobs"))
        connection.execute(models.update().values(file=False))
    age(store, 1001)
    assert blobs.collect(grace_seconds=1000)[0] == 4
    assert files(blobs) == [] and blobs.usage() == 0
    assert old.sha256 not in check(blobs)


def test_what_a_kill_may_leave_is_set_right(store: Store, blobs: Blobs) -> None:
    kept, lost = blobs.put([b"kept"]), blobs.put([b"lost"])
    stray = sha256(b"stray")
    (blobs.folder / stray[:2]).mkdir(exist_ok=True)
    (blobs.folder / stray[:2] / stray[2:]).write_bytes(b"stray")  # renamed, not yet committed
    blobs.path(lost.sha256).unlink()  # unlinked, not yet committed
    (blobs.unfinished / "left").write_bytes(b"half")
    os.utime(blobs.unfinished / "left", (0, 0))
    need(store, kept)
    assert not blobs.has(lost.sha256)
    assert blobs.put([b"lost"]) == lost and blobs.has(lost.sha256)
    age(store, 1001)
    assert blobs.collect(grace_seconds=1000) == (2, len(b"half" + b"lost"))
    assert check(blobs) == {kept.sha256, stray}
    assert blobs.usage() == len(b"kept" + b"stray")
    age(store, 1001)
    assert blobs.collect(grace_seconds=1000) == (1, len(b"stray"))
    assert check(blobs) == {kept.sha256}


def test_a_file_cut_short_is_written_anew(blobs: Blobs) -> None:
    blob = blobs.put([b"whole"])
    blobs.path(blob.sha256).write_bytes(b"wh")
    blobs.put([b"whole"])
    assert check(blobs) == {blob.sha256}


def test_an_upload_under_way_is_not_garbage(store: Store, blobs: Blobs) -> None:
    with blobs.upload() as upload:
        upload.write(b"slow")
        for file in blobs.unfinished.iterdir():
            os.utime(file, (0, 0))
        assert blobs.collect(grace_seconds=0) == (0, 0)
        blob = upload.commit()
    assert blobs.open(blob.sha256).read() == b"slow"


def test_processes_that_put_the_same_at_once_leave_one_file(url: str, tmp_path: Path) -> None:
    folder = tmp_path / "blobs"
    with Store.open(url) as store:
        writers = [writer(url, folder) for _ in range(3)]
        for process in writers:
            tell(process, "0 20 200000")
        answers = [process.communicate(timeout=120)[0].split() for process in writers]
        assert [process.returncode for process in writers] == [0] * 3
        expected = [sha256(content(number, 200_000)) for number in range(20)]
        assert answers == [expected] * 3
        blobs = Blobs(folder, store.database)
        assert check(blobs) == set(expected) and len(files(blobs)) == 20
        assert blobs.usage() == 20 * 200_008


def test_a_put_racing_a_collection_keeps_what_it_promised(url: str, tmp_path: Path) -> None:
    """Old garbage is put again in one process while another collects: after each put it is there, and stays."""
    with Store.open(url) as store:
        blobs = Blobs(tmp_path / "blobs", store.database)
        process = writer(url, blobs.folder)
        assert process.stdout is not None
        collected = 0
        for turn in range(40):
            blobs.put([content(7, 1000)])
            age(store, 1001)
            # Who is first is chance, the more so with the collection ahead by some ms; the first time it surely is.
            putting = threading.Timer(turn % 8 * 0.001, tell, [process, "7 1 1000"])
            if turn > 0:
                putting.start()
            collected += blobs.collect(grace_seconds=1000)[0]
            if turn == 0:
                putting.start()
            putting.join()
            blob = process.stdout.readline().strip()
            assert blobs.has(blob) and blobs.open(blob).read() == content(7, 1000)
            assert blobs.collect(grace_seconds=1000) == (0, 0)
        process.communicate(timeout=60)
        assert len(check(blobs)) == 1
    assert collected > 0


def test_killed_writers_leave_no_wrong_content(url: str, tmp_path: Path) -> None:
    folder, dice = tmp_path / "blobs", random.Random(5)
    promised: set[str] = set()
    with Store.open(url) as store:
        blobs = Blobs(folder, store.database)
        for kill in range(5):
            process = writer(url, folder)
            assert process.stdout is not None
            tell(process, f"{1000 * kill} 1000 300000")
            timer = threading.Timer(dice.uniform(0.0, 0.3), process.send_signal, [signal.SIGKILL])
            timer.start()
            said = process.stdout.read()
            process.communicate(timeout=60)
            timer.join()
            assert process.returncode == -signal.SIGKILL
            promised |= {line for line in said.split("\n") if len(line) == 64}
        assert promised <= check(blobs)
        assert all(blobs.has(blob) for blob in promised)
        age(store, 10_000)
        for file in blobs.unfinished.iterdir():
            os.utime(file, (0, 0))
        blobs.collect(grace_seconds=5000)  # adopts what was renamed and not committed
        age(store, 10_000)
        blobs.collect(grace_seconds=5000)
        assert files(blobs) == [] and blobs.usage() == 0
