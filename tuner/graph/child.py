"""The process that parses and cleans one model under limits: ``python -m tuner.graph.child FOLDER``.

Reads FOLDER/request.json; leaves FOLDER/result.json and FOLDER/weights.bin. Never imports TVM.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG = 1
_ALIGN = 64  # bytes: a cache line, enough for any vector load


def main(folder: Path) -> None:
    """Serve the one request in ``folder``."""
    request = json.loads((folder / "request.json").read_text())
    _confine(request)
    try:
        result = _import(request, folder)
    except MemoryError:
        result = _failure("The model needs more memory than the import may use.", "model-memory")
    (folder / "result.tmp").write_text(json.dumps(result))
    os.replace(folder / "result.tmp", folder / "result.json")


def _confine(request: dict[str, Any]) -> None:
    """Limits on memory and CPU time, and death together with the parent."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != request["parent"]:
        sys.exit(1)  # it died before the line above
    # DATA, not AS: libraries reserve far more address space than they use.
    for kind, limit in ((resource.RLIMIT_DATA, request["memory"]), (resource.RLIMIT_CPU, request["cpu"])):
        hard = resource.getrlimit(kind)[1]
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _import(request: dict[str, Any], folder: Path) -> dict[str, Any]:
    from tuner.errors import UserError  # after the limits are set

    try:
        return _clean(request, folder)
    except UserError as error:
        return _failure(error.message, error.code, error.hint)
    except (MemoryError, OSError):
        raise
    except Exception as error:
        # Whatever a hostile file makes a library raise is still the file's fault, and must reach the user as that.
        return _failure(
            f"The model cannot be imported: {type(error).__name__}: {str(error)[:200].rstrip('.')}.", "import-failed"
        )


def _clean(request: dict[str, Any], folder: Path) -> dict[str, Any]:
    from tuner.graph.clean import clean
    from tuner.graph.export import bytes_of, digests_of, to_graph
    from tuner.graph.work import Sizes

    path = Path(request["path"])
    sizes = Sizes(tensor=request["tensor"], constants=request["constants"])
    shapes = {name: tuple(shape) for name, shape in request["shapes"].items()}
    around = path.parent if request["external"] else None
    cleaned = clean(path.read_bytes(), around, shapes, request["disabled"], sizes)
    work = cleaned.work
    digests = digests_of(work)
    offsets = {}
    with (folder / "weights.bin").open("wb") as file:
        for name in digests:
            file.write(b"\0" * (-file.tell() % _ALIGN))
            offsets[name] = file.tell()
            file.write(bytes_of(work.arrays[name]))
    return {
        "graph": to_graph(work, digests).to_json(),
        "offsets": offsets,
        "sha256": cleaned.sha256,
        "passes": [vars(report) for report in cleaned.reports],
        "declared": dict(cleaned.declared),
        "beside": list(cleaned.beside),
    }


def _failure(message: str, code: str, hint: str = "") -> dict[str, Any]:
    return {"error": {"message": message, "code": code, "hint": hint}}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
