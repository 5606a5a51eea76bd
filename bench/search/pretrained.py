"""What a calibration of the recorded CPU tried: ``python -m bench.search.pretrained DATABASE``.

``fusetune calibrate --db DATABASE`` measures knobs of synthetic kernels. This takes its trials out of the database and
keeps them beside the recordings, so that replayed searches know what they would know on a calibrated device.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bench import lines
from db.store import Store
from tuner.measure.device import detect_cpu, toolchain
from tuner.search.experience import Experience
from tuner.search.pretraining import candidates
from tuner.types import Candidate, Device, Trial

TRIALS = Path(__file__).parent / "calibration.jsonl.gz"


def load(device: Device, path: Path = TRIALS) -> Experience | None:
    """What a job on the calibrated device knows of knobs before its first measurement."""
    trials = (Trial(Candidate.from_json(row["candidate"]), samples=tuple(row["samples"])) for row in lines.read(path))
    return Experience.of(trials, device)


def save(store: Store, device: Device, path: Path = TRIALS) -> int:
    """Keep the successful trials of the device's calibration; returns how many those are."""
    wanted = {c.key: c.record_key for c in candidates(device)}
    known = store.trials.of_records(sorted(set(wanted.values())), device=device.fingerprint, toolchain=toolchain())
    found = [
        {"candidate": t.candidate.to_json(), "samples": t.samples}
        for t in known
        if t.samples and t.candidate.key in wanted
    ]
    lines.keep(path, found)
    return len(found)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.search.pretrained", description=__doc__)
    parser.add_argument("database", metavar="URL", help="that fusetune calibrate wrote on this machine")
    options = parser.parse_args(arguments)
    with Store.open(options.database) as store:
        print(f"{save(store, detect_cpu())} trials, {TRIALS.stat().st_size / 1024:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
