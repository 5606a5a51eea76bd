"""Static files under addresses that change with their content, so that browsers may keep them for ever.

All of ``static/`` shares one hash: its modules import each other by relative paths, which then lead to the same
version. Plotly's script is not ours: it is served out of the installed wheel, under a hash of its own.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import threading
from dataclasses import dataclass
from pathlib import Path

from fastapi import HTTPException, Request, Response

from service.web.addresses import Addresses

FOLDER = Path(__file__).with_name("static")
MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml; charset=utf-8",
    ".png": "image/png",
}
_FOR_EVER = "public, max-age=31536000, immutable"
_WORTH_IT = 500  # bytes; what is smaller does not get smaller
PLOTLY = "plotly.min.js"


@dataclass(frozen=True)
class Asset:
    """One file as it is sent."""

    body: bytes
    packed: bytes | None  # the same under gzip, where that is worthwhile
    media_type: str

    def response(self, request: Request) -> Response:
        """The body as this client takes it."""
        headers = {"Cache-Control": _FOR_EVER, "Vary": "Accept-Encoding", "X-Content-Type-Options": "nosniff"}
        if self.packed is not None and _takes_gzip(request):
            return Response(self.packed, media_type=self.media_type, headers=headers | {"Content-Encoding": "gzip"})
        return Response(self.body, media_type=self.media_type, headers=headers)


class Assets:
    """Everything under static/, read once, and Plotly, read when a page first asks for it. Thread-safe."""

    def __init__(self, addresses: Addresses, folder: Path = FOLDER) -> None:
        self._addresses = addresses
        files = sorted(path for path in folder.rglob("*") if path.suffix in MEDIA_TYPES)
        self._files = {path.relative_to(folder).as_posix(): _asset(path) for path in files}
        digest = hashlib.sha256()
        for name, asset in self._files.items():
            digest.update(f"{name}\0{len(asset.body)}\0".encode())
            digest.update(asset.body)
        self.version = digest.hexdigest()[:12]
        self._plotly_path = _plotly()
        with self._plotly_path.open("rb") as file:
            self._plotly_version = hashlib.file_digest(file, "sha256").hexdigest()[:12]
        self._plotly_asset: Asset | None = None
        self._lock = threading.Lock()

    def names(self) -> list[str]:
        """All files of ours."""
        return list(self._files)

    def url(self, name: str) -> str:
        """The address of a file of ours. Raises KeyError for a name that is not there: a defect of the template."""
        if name not in self._files:
            raise KeyError(f"there is no static file {name!r}")
        return self._addresses.url(f"/static/{self.version}/{name}")

    @property
    def plotly_url(self) -> str:
        return self._addresses.url(f"/static/{self._plotly_version}/{PLOTLY}")

    def response(self, request: Request, version: str, name: str) -> Response:
        """The file. Raises HTTPException 404 for an unknown name or a version that is not the current one."""
        if name == PLOTLY and version == self._plotly_version:
            return self._plotly().response(request)
        if version != self.version or name not in self._files:
            raise HTTPException(404)
        return self._files[name].response(request)

    def _plotly(self) -> Asset:
        with self._lock:
            if self._plotly_asset is None:
                self._plotly_asset = _asset(self._plotly_path)
            return self._plotly_asset


def _asset(path: Path) -> Asset:
    body = path.read_bytes()
    packed = gzip.compress(body, 6, mtime=0) if len(body) > _WORTH_IT and path.suffix != ".png" else None
    return Asset(body, packed if packed and len(packed) < len(body) else None, MEDIA_TYPES[path.suffix])


def _plotly() -> Path:
    # Found, not imported: the package's Python side is of no use here.
    spec = importlib.util.find_spec("plotly")
    if spec is None or spec.origin is None:
        raise RuntimeError("the package plotly, whose wheel carries the charts' script, is not installed")
    return Path(spec.origin).parent / "package_data" / PLOTLY


def _takes_gzip(request: Request) -> bool:
    codings = request.headers.get("accept-encoding", "").lower().split(",")
    offers = [coding.replace(" ", "").partition(";") for coding in codings]
    return any(name in {"gzip", "*"} and weight not in {"q=0", "q=0.0"} for name, _, weight in offers)
