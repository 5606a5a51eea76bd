"""A cluster over this machine's own network address: TLS and a token, made by the commands that we print."""

from __future__ import annotations

import re
import socket
import subprocess
from pathlib import Path

import pytest
from cluster_tools import MISSING, Head, Machine

from tuner.errors import DeviceError
from tuner.measure.cluster.address import COMMANDS
from tuner.measure.cluster.cluster import Cluster
from tuner.measure.device import detect_cpu

pytest.importorskip("ray", reason=MISSING)
pytestmark = [pytest.mark.alone, pytest.mark.slow]


@pytest.fixture
def host() -> str:
    """This machine's address on its network."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # nothing is sent
        except OSError:
            pytest.skip("this machine has no network")
        return str(probe.getsockname()[0])


@pytest.fixture
def secrets(host: str, tmp_path: Path) -> dict[str, str]:
    """What a member's environment needs."""
    lines = [line.strip() for line in COMMANDS.format(host=host, san="IP").splitlines()]
    shell = "\n".join(line for line in lines if re.match(r"(openssl|printf|export)", line))
    script = f"{shell}\nenv | grep ^RAY_"
    done = subprocess.run(["bash", "-euc", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    return dict(line.split("=", 1) for line in done.stdout.splitlines())


def test_with_certificates_and_the_token_it_is_joined_and_without_the_token_it_is_not(
    host: str, secrets: dict[str, str], tmp_path: Path
) -> None:
    with Head(host, secrets) as head:
        with Machine(head.address, "--builders", "1", environment=secrets):
            cluster = Cluster(head.address, secrets)
            assert cluster.devices() == (detect_cpu(),)
            cluster.close()
            cluster.dispose()
            (tmp_path / "other").write_text("0" * 64)
            stranger = Cluster(head.address, secrets | {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "other")})
            with pytest.raises(DeviceError):
                stranger.devices(seconds=10.0)
            stranger.close()
            stranger.dispose()
