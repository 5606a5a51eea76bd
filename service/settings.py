"""How one server is set up: one frozen value, made from the command line and handed to whatever needs it."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path

from db.urls import data_folder, default_url
from tuner.errors import UserError

_MIB = 1 << 20
_GIB = 1 << 30


@dataclass(frozen=True)
class Settings:
    """All that a server can be told. Sizes in bytes, times in seconds unless the name says otherwise."""

    db: str = field(default_factory=default_url)
    data: Path = field(default_factory=data_folder)  # blobs/ and work/; shared by servers on one database
    host: str = "127.0.0.1"
    port: int = 8077
    root_path: str = ""  # path prefix a proxy puts before every address, such as "/fusetune"
    auth: bool = True
    secure: bool = False  # behind HTTPS: the cookie is marked Secure and HSTS is sent
    trust_proxy: bool = False  # take the client's address and scheme from X-Forwarded-*
    max_upload: int = 2 * _GIB  # one model file
    quota: int | None = 50 * _GIB  # all models and artifacts together; None = what the disk holds
    retention_days: float | None = None  # finished jobs older than this are deleted; None = never
    rate: int = 1200  # requests a minute from one client; sign-in attempts have a limit of their own
    jobs_per_device: int = 1  # running at once; more share the device in turns
    dispatch: bool = True  # False = serve and store only, another server runs the jobs
    lease: float = 15.0  # a driver that does not renew for so long has lost its job
    allowed_hosts: tuple[str, ...] = ()  # further names that the server answers to, besides loopback
    log_json: bool = False
    cluster: str | None = None  # HOST:PORT of a Ray cluster whose devices are driven instead of this machine's

    def __post_init__(self) -> None:
        if not self.auth and not is_loopback(self.host):
            raise UserError(
                f"Without authentication the server may listen on loopback only, not on {self.host}.",
                code="bad-host", hint="Leave out --no-auth, or leave out --host.",
            )  # fmt: skip
        if self.root_path and (not self.root_path.startswith("/") or self.root_path.endswith("/")):
            raise UserError(
                f"The path prefix {self.root_path!r} must begin with / and not end with one.", code="bad-root-path"
            )

    @property
    def blobs(self) -> Path:
        return self.data / "blobs"

    @property
    def work(self) -> Path:
        """Scratch folders of running jobs; what is left there after a crash is swept at the next start."""
        return self.data / "work"

    @property
    def url(self) -> str:
        """Where a browser on this machine finds the server."""
        host = self.host if self.host not in {"0.0.0.0", "::"} else "127.0.0.1"  # noqa: S104
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}{self.root_path}"


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
