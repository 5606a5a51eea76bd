"""``python -m tuner.measure.cluster.node LIFELINE ADDRESS NODE-ADDRESS CORES RESOURCES``: this machine as a Ray node.

Ends when the lifeline's other end closes, and takes all that Ray started along: it runs in one process group.
"""

from __future__ import annotations

import os
import sys

from tuner.lifeline import hold
from tuner.measure.cluster.address import LOOPBACK

STORE_BYTES = 256 << 20  # of Ray's object store: messages are libraries of some hundred kilobytes


def main() -> None:
    lifeline, address, host, cores, resources = sys.argv[1:]
    os.set_inheritable(int(lifeline), False)
    hold(int(lifeline))
    from ray._private import ray_constants, services
    from ray.scripts import scripts

    if host == LOOPBACK:
        # Ray replaces the loopback address by one that others can reach, and then listens for them, too.
        services.resolve_ip_for_localhost = lambda host: host
        ray_constants.ENABLE_RAY_CLUSTER = True
    options = {
        "address": address, "node-ip-address": host, "num-cpus": cores, "num-gpus": "0", "resources": resources,
        "object-store-memory": str(STORE_BYTES),
    }  # fmt: skip
    scripts.cli(["start", "--block", "--disable-usage-stats", *(f"--{name}={text}" for name, text in options.items())])


if __name__ == "__main__":
    main()
