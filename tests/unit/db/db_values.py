"""Values the database tests store; also a program that writes trials until it is killed or done."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from db.store import Store
from tuner.types import Candidate, Device, Failure, FailureKind, JobSpec, Trial, digest

TOOLCHAIN = "tvm-0.27"
DEVICE = Device("cpu", "cpu", "Test CPU", "znver5", ("avx2", "avx512f"), 2, 16, 32, 2**15, 2**20, 2**25, 2**34)


def candidate(number: int = 0, workload: int = 0, cores: int = 1) -> Candidate:
    """Candidates with equal ``workload`` and ``cores`` answer one question; ``number`` is their knob."""
    # What JSON columns like to spoil: infinities, key order, floats that look like integers, NUL.
    canonical = {"z": [float("-inf"), 1.0, 1e16, 1e-5], "a": {"op": "Conv\0é", "shape": [1, 64, 56, workload]}}
    return Candidate(
        workload=canonical,
        workload_hash=digest(canonical),
        layouts={"i0": "NCHW16c", "t0": "plain"},
        template="conv2d",
        template_version=1,
        knobs={"reg_n": number, "ob": 16},
        cores=cores,
    )


def good(number: int, *samples: float, workload: int = 0, error: float | None = 1e-6, **more: object) -> Trial:
    return Trial(candidate(number, workload), samples=samples, max_rel_error=error, **more)  # type: ignore[arg-type]


def bad(number: int, kind: FailureKind, workload: int = 0) -> Trial:
    return Trial(candidate(number, workload), failure=Failure(kind, "it \0 died", "last words \udc80\n"))


def new_job(store: Store, **spec: object) -> str:
    store.devices.put(DEVICE)
    job, _ = store.jobs.submit(JobSpec(model="ab" * 32, **spec), DEVICE.fingerprint, TOOLCHAIN)  # type: ignore[arg-type]
    return job.id


def put(store: Store, job: str | None, *trials: Trial) -> list[int]:
    store.devices.put(DEVICE)
    return [store.trials.add(job, trial, device=DEVICE.fingerprint, toolchain=TOOLCHAIN) for trial in trials]


def together(*work: Callable[[], object]) -> None:
    """Run all at once, each in a thread; raises what any of them raises."""
    start = threading.Barrier(len(work))

    def run(each: Callable[[], object]) -> None:
        start.wait()
        each()

    with ThreadPoolExecutor(len(work)) as pool:
        for done in [pool.submit(run, each) for each in work]:
            done.result()


def main(url: str, first: int, trials: int) -> None:
    """Open the store, add trials with knobs first, first + 1, ..., and print each knob once it is committed."""
    with Store.open(url) as store:
        job = new_job(store)
        print("job", job, flush=True)
        for number in range(first, first + trials):
            put(store, job, good(number, 1e-3, 2e-3))
            store.events.add(job, "trial", {"number": number})
            print(number, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
