"""``python -m tuner.measure.cluster.member LIFELINE``: makes this machine's Host known to a cluster that it has joined.

Reads one line of JSON: address, node, device, builders, cores. Writes a line once the host answers, and ends, with an
exit code other than 0, when it no longer does.
"""

from __future__ import annotations

import json
import os
import sys
import time

from tuner.lifeline import hold

PERIOD = 2.0  # seconds between two questions whether the host is alive
START_LIMIT = 240.0  # seconds it may take to come up
LIMIT = 60.0  # seconds it may take to answer


def main() -> int:
    os.set_inheritable(int(sys.argv[1]), False)
    hold(int(sys.argv[1]))
    import ray

    from tuner.measure.cluster.actor import make
    from tuner.measure.cluster.names import NAMESPACE, device_resource, member_name, node_resource

    given = json.loads(sys.stdin.readline())
    ray.init(address=given["address"], namespace=NAMESPACE, log_to_driver=False, logging_level="warning")
    device, node = given["device"], given["node"]
    resources = {node_resource(node): 1.0}
    if device is not None:
        resources[device_resource(device["fingerprint"])] = 1.0
    actor = make(member_name(node), resources, device, given["builders"], given["cores"])
    ray.get(actor.describe.remote(), timeout=START_LIMIT)
    print("ready", flush=True)
    while True:
        time.sleep(PERIOD)
        ray.get(actor.describe.remote(), timeout=LIMIT)


if __name__ == "__main__":
    sys.exit(main())
