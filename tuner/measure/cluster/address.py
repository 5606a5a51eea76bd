"""Where a cluster is, and whether it is safe to speak to: what leaves this machine is encrypted and needs a token.

Members of a Ray cluster run each other's code. Ray itself would let in whoever reaches its ports.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tuner.errors import UserError

_FILES = ("RAY_TLS_SERVER_CERT", "RAY_TLS_SERVER_KEY", "RAY_TLS_CA_CERT")
LOOPBACK = "127.0.0.1"
# What the cluster's settings begin with; they are handed to our own Ray processes, and to no candidate.
PREFIX = "RAY_"

COMMANDS = """\
Once, on one machine (the key of the authority stays there):
  openssl req -x509 -newkey rsa:3072 -nodes -days 3650 -subj "/CN=fusetune cluster" -keyout ca.key -out ca.crt
  openssl rand -hex 32 > token; chmod 600 token ca.key
For each machine, with its own address in place of {host}:
  openssl req -newkey rsa:3072 -nodes -subj "/CN={host}" -keyout node.key -out node.csr
  printf "subjectAltName={san}:{host},IP:127.0.0.1" > node.ext
  openssl x509 -req -in node.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 825 -extfile node.ext -out node.crt
Copy ca.crt, node.crt, node.key and token to that machine, and in the environment of all that joins there:
  export RAY_USE_TLS=1 RAY_TLS_CA_CERT=$PWD/ca.crt RAY_TLS_SERVER_CERT=$PWD/node.crt RAY_TLS_SERVER_KEY=$PWD/node.key
  export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$PWD/token"""


@dataclass(frozen=True)
class Address:
    """Where the head of a cluster listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return self.host == LOOPBACK


def parse(text: str) -> Address:
    """The address HOST:PORT. Raises UserError(code="bad-address")."""
    host, colon, port = text.strip().rpartition(":")
    host = host.strip("[]")
    if not colon or not host or not port.isdigit() or not 0 < int(port) < 65536 or "/" in host:
        raise UserError(f"{text!r} is no address of a cluster; one looks like 127.0.0.1:6380.", code="bad-address")
    if host == "localhost":
        host = LOOPBACK
    try:
        if ipaddress.ip_address(host).is_loopback and host != LOOPBACK:
            raise UserError(f"Of the addresses of this machine itself Ray knows {LOOPBACK} only.", code="bad-address")
    except ValueError:
        pass  # a name
    return Address(host, int(port))


def check_safe(address: Address, environment: Mapping[str, str]) -> None:
    """Raise UserError(code="cluster-not-safe"), with the commands to run, unless TLS and a token are set up.

    Addresses that only this machine can reach are safe as they are: on them Ray listens for this machine alone.
    """
    missing = [] if address.loopback else [*_tls(environment), *_token(environment)]
    if missing:
        what = "; ".join(missing)
        commands = COMMANDS.format(host=address.host, san="IP" if _is_ip(address.host) else "DNS")
        raise UserError(
            f"The cluster at {address} is reached over a network, without what protects it: {what}.",
            code="cluster-not-safe", hint=f"\n{commands}\nWhat that means: docs/security.md.",
        )  # fmt: skip


def settings(address: Address, environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that our Ray processes need, out of ours. Raises UserError as ``check_safe`` does."""
    check_safe(address, environment)
    found = {name: value for name, value in environment.items() if name.startswith(PREFIX)}
    found |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "0", "RAY_gcs_rpc_server_reconnect_timeout_s": "10"}
    if address.loopback:
        # Ray replaces the loopback address by one that others reach, unless it believes that clusters are not for it.
        found["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    return found


def _tls(environment: Mapping[str, str]) -> list[str]:
    if environment.get("RAY_USE_TLS", "").lower() not in {"1", "true"}:
        return ["RAY_USE_TLS is not 1"]
    return [f"{name} names no file" for name in _FILES if not _is_file(environment.get(name, ""))]


def _token(environment: Mapping[str, str]) -> list[str]:
    missing = []
    if environment.get("RAY_AUTH_MODE", "").lower() != "token":
        missing.append("RAY_AUTH_MODE is not token")
    path = environment.get("RAY_AUTH_TOKEN_PATH", "")
    if not environment.get("RAY_AUTH_TOKEN", "").strip() and not (_is_file(path) and Path(path).read_text().strip()):
        missing.append("neither RAY_AUTH_TOKEN nor RAY_AUTH_TOKEN_PATH gives a token")
    return missing


def _is_file(path: str) -> bool:
    return bool(path) and Path(path).is_file()


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
