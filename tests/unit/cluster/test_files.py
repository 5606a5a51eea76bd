"""Files on their way between machines: sent once, checked, and never laid out where they do not belong."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from tuner.measure.cluster.arrays import arrays_from_bytes, arrays_to_bytes
from tuner.measure.cluster.files import Store, listing


def hash_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def put(store: Store, content: bytes, pieces: int = 1) -> str:
    size = -(-len(content) // pieces)
    for n in range(pieces):
        store.put(hash_of(content), n * size, content[n * size : (n + 1) * size], last=n == pieces - 1)
    return hash_of(content)


def test_a_folder_arrives_as_it_was(tmp_path: Path) -> None:
    source = tmp_path / "artifact"
    (source / "tuning_log").mkdir(parents=True)
    contents = {"model.so": os.urandom(1000), "params.bin": b"", "tuning_log/a.json": b"{}", "copy.so": b"{}"}
    for name, content in contents.items():
        (source / name).write_bytes(content)
    files, store = listing(source), Store(tmp_path / "store")
    assert sorted(store.missing(files.values())) == sorted({hash_of(c) for c in contents.values()})
    for content in contents.values():
        put(store, content, pieces=3)
    assert store.missing(files.values()) == []
    store.lay_out(files, tmp_path / "there")
    assert listing(tmp_path / "there") == files
    assert (tmp_path / "there/tuning_log/a.json").read_bytes() == b"{}"


def test_a_single_file_arrives_under_its_name(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"model")
    store = Store(tmp_path / "store")
    put(store, b"model")
    store.lay_out(listing(tmp_path / "model.onnx"), tmp_path / "there/0/model.onnx")
    assert (tmp_path / "there/0/model.onnx").read_bytes() == b"model"


def test_what_arrives_damaged_or_in_parts_is_not_kept(tmp_path: Path) -> None:
    store, content = Store(tmp_path), b"0123456789"
    with pytest.raises(ValueError, match="damaged"):
        store.put(hash_of(content), 0, b"012345678X", last=True)
    with pytest.raises(ValueError, match="missing"):
        store.put(hash_of(content), 5, b"56789", last=True)
    store.put(hash_of(content), 0, b"01234", last=False)  # ... and its sender went away
    assert store.missing([hash_of(content)]) == [hash_of(content)]
    put(store, content)
    assert store.missing([hash_of(content)]) == []


@pytest.mark.parametrize("name", ["../outside", "a/../../outside", "/outside"])
def test_names_that_lead_away_are_refused(tmp_path: Path, name: str) -> None:
    store = Store(tmp_path / "store")
    with pytest.raises(ValueError, match="no name"):
        store.lay_out({name: put(store, b"x")}, tmp_path / "there")
    assert not (tmp_path / "outside").exists()


@pytest.mark.parametrize("hash", ["", "../x", "A" * 64, "0" * 63])
def test_what_is_no_hash_is_refused(tmp_path: Path, hash: str) -> None:
    with pytest.raises(ValueError, match="SHA-256"):
        Store(tmp_path).put(hash, 0, b"", last=True)


def test_the_files_used_longest_ago_make_room(tmp_path: Path) -> None:
    store = Store(tmp_path, limit=25)
    old, used = put(store, b"a" * 10), put(store, b"b" * 10)
    for age, hash in ((30, old), (20, used)):
        os.utime(tmp_path / hash, (age, age))
    put(store, b"c" * 10)
    assert store.missing([old, used]) == []  # looking at a file counts as using it
    os.utime(tmp_path / old, (10, 10))
    put(store, b"d")
    assert store.missing([old, used]) == [old]


def test_arrays_keep_names_types_and_shapes() -> None:
    sets = [
        {"file": np.arange(6, dtype=np.int64).reshape(2, 3), "../x": np.float32(1.5).reshape(())},
        {"file": np.zeros((0, 4), np.float16)},
    ]
    names, blob = arrays_to_bytes(sets)
    found = arrays_from_bytes(names, blob)
    assert [list(each) for each in found] == [["file", "../x"], ["file"]]
    for theirs, ours in zip(found, sets, strict=True):
        for name, array in ours.items():
            assert theirs[name].dtype == array.dtype and theirs[name].shape == array.shape
            assert np.array_equal(theirs[name], array)


def test_objects_are_not_arrays() -> None:
    names, blob = arrays_to_bytes([{"x": np.array([{"code": 1}], dtype=object)}])
    with pytest.raises(ValueError, match="allow_pickle"):
        arrays_from_bytes(names, blob)
