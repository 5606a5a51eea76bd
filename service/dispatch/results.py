"""What a finished job leaves: its artifact's folder as blobs that any server can hand out."""

from __future__ import annotations

import json
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from db.blobs import Blobs

# name -> media type; see also service.exports, which makes the formats that the trials table gives at any time
ZIP, JSON = "application/zip", "application/json"


def keep(out: Path, graph: Mapping[str, Any], blobs: Blobs) -> dict[str, tuple[str, int, str]]:
    """Store an artifact's folder; returns name -> (sha256, bytes, media type), as Queue.finish takes it."""
    files = {"artifact.zip": (packed(out, blobs), ZIP)}
    files["metaschedule.zip"] = (_zip(out / "tuning_log", "", blobs), ZIP)
    for name in ("plan.json", "report.json"):
        with (out / name).open("rb") as file:
            files[name] = (blobs.put(file), JSON)
    files["graph.json"] = (blobs.put(iter([json.dumps(graph).encode()])), JSON)
    return {name: (blob.sha256, blob.size, media) for name, (blob, media) in files.items()}


def packed(out: Path, blobs: Blobs) -> Any:
    """An artifact's folder as a blob: a zip with the folder in it."""
    return _zip(out, out.name, blobs)


def _zip(folder: Path, prefix: str, blobs: Blobs) -> Any:
    """The folder as a zip; weights do not compress, so nothing is."""
    with tempfile.TemporaryFile() as scratch:
        _write(folder, prefix, scratch)
        scratch.seek(0)
        return blobs.put(scratch)


def _write(folder: Path, prefix: str, to: BinaryIO | Any) -> None:
    with zipfile.ZipFile(to, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                name = path.relative_to(folder).as_posix()
                with (
                    path.open("rb") as source,
                    archive.open(_info(f"{prefix}/{name}" if prefix else name), "w") as target,
                ):
                    while chunk := source.read(1 << 20):
                        target.write(chunk)


def _info(name: str) -> zipfile.ZipInfo:
    """Without a date: the same content gives the same blob."""
    info = zipfile.ZipInfo(name)
    info.external_attr = 0o644 << 16
    return info
