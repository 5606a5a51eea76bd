"""A Runner that answers from a formula, a store in memory, and convolution questions to ask them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil

from tuner.graph.ir import Constant, Graph, Layer, Tensor, freeze_attrs
from tuner.kernels.base import Space
from tuner.measure.runner import Runner
from tuner.search.knobs import KnobSearch
from tuner.search.questions import Question
from tuner.search.tuning import Tuning
from tuner.types import Candidate, Device, Failure, FailureKind, Purpose, Trial

DEVICE = Device(
    name="cpu", kind="cpu", model="imaginary", mcpu="skylake-avx512", features=("avx512f",), cores=4, lanes=16,
    registers=32, l1=32 << 10, l2=1 << 20, l3=32 << 20, memory=8 << 30,
)  # fmt: skip

SMALL = Space({"oc_t": [1, 2, 4], "reg_n": list(range(1, 29)), "rows": [1, 2, 4, 7, 14, 28], "order": [0, 1]},
              {"oc_t": 1, "reg_n": 7, "rows": 1, "order": 0},
              lambda k: k["oc_t"] * k["reg_n"] <= 28)  # fmt: skip
LARGE = Space({"oc_t": list(range(1, 9)), "reg_n": list(range(1, 29)), "rows": list(range(1, 29)), "order": [0, 1]},
              {"oc_t": 1, "reg_n": 7, "rows": 1, "order": 0})  # fmt: skip

Seconds = Callable[[Candidate], float | FailureKind]


def conv(channels: int = 64, size: int = 28) -> Graph:
    """A 3x3 convolution as a workload."""
    layer = Layer("l0", "Conv", ("i0", "c0"), ("t0",), freeze_attrs({"pads": (1, 1, 1, 1), "strides": (1, 1)}))
    shape = (1, channels, size, size)
    return Graph(
        inputs=("i0",), outputs=("t0",), layers=(layer,), tensors={n: Tensor(n, shape) for n in ("i0", "t0")},
        constants={"c0": Constant("c0", (channels, channels, 3, 3))}, opset=17,
    )  # fmt: skip


def question(space: Space = SMALL, channels: int = 64, uses: int = 1, cores: Sequence[int] = (4,)) -> Question:
    workload = conv(channels)
    layouts = {"i0": "NCHW16c", "t0": "NCHW16c"}
    searches = {
        ("conv2d", c): KnobSearch(
            Candidate(workload.to_json(), workload.hash, layouts, "conv2d", 1, {}, c), workload, space, DEVICE,
            weight=uses,
        )
        for c in cores
    }  # fmt: skip
    return Question(workload, layouts, "conv2d", space, searches, max(cores), uses)


def conv_seconds(candidate: Candidate) -> float:
    """What a convolution might take: few loads, enough chains, no ragged ends, even work on all cores."""
    oc_t, reg_n, rows = (candidate.knobs[k] for k in ("oc_t", "reg_n", "rows"))
    channels = (
        candidate.workload["constants"][0]["shape"][0] if isinstance(candidate.workload["constants"], list) else 64
    )
    loads = 1 / oc_t + 1 / reg_n
    chains = min(1.0, oc_t * reg_n / 12)
    spills = 1 + max(0, oc_t * reg_n - 26) / 6
    ragged = ceil(28 / reg_n) * reg_n / 28
    tasks = ceil(channels / (16 * oc_t)) * ceil(28 / rows)
    uneven = ceil(tasks / candidate.cores) * candidate.cores / tasks
    order = 1.0 + 0.05 * candidate.knobs["order"]
    return 1e-4 * max(loads, 0.5) / chains * spills * ragged * uneven * order / candidate.cores


@dataclass
class FakeRunner(Runner):
    """Answers from ``seconds``; remembers what it was asked. ``after`` is called before each trial is handed over."""

    seconds: Seconds = conv_seconds
    after: Callable[[int], None] = lambda _: None
    asked: list[tuple[Candidate, Purpose]] = field(default_factory=list)

    def run(
        self,
        candidates: Iterable[Candidate],
        purpose: Purpose = Purpose.SEARCH,
        best_seconds: Mapping[str, float] | None = None,
    ) -> Iterator[Trial]:
        for candidate in candidates:
            self.asked.append((candidate, purpose))
            self.after(len(self.asked))
            yield trial(candidate, self.seconds(candidate), purpose)

    def devices(self) -> tuple[Device, ...]:
        return (DEVICE,)

    def close(self) -> None:
        return None

    @property
    def keys(self) -> list[str]:
        return [c.key for c, _ in self.asked]


def trial(candidate: Candidate, seconds: float | FailureKind, purpose: Purpose = Purpose.SEARCH) -> Trial:
    if isinstance(seconds, FailureKind):
        return Trial(candidate, purpose, failure=Failure(seconds, "as the test wants it"))
    return Trial(candidate, purpose, samples=(seconds,) * 3, build_seconds=0.1, measure_seconds=0.1)


class MemoryStore:
    """Keeps trials as the database would; ``own`` are those of this job's earlier runs."""

    def __init__(self, trials: Iterable[Trial] = (), own: Iterable[Trial] = ()) -> None:
        self.own = list(own)
        self.trials = [*trials, *self.own]

    def mine(self) -> Sequence[Trial]:
        return list(self.own)

    def known(self, record_keys: Collection[str]) -> Sequence[Trial]:
        return [t for t in self.trials if t.candidate.record_key in set(record_keys)]

    def add(self, trial: Trial) -> None:
        self.trials.append(trial)


def tuning(*asked: Question, store: MemoryStore | None = None, seed: int = 0, fresh: bool = False) -> Tuning:
    return Tuning(list(asked), DEVICE, store or MemoryStore(), seed, fresh)


def every_second(space: Space, seconds: Callable[[Candidate], float], like: Candidate) -> list[float]:
    """The time of each point of a space, fastest first."""
    points = [Candidate.from_json(like.to_json() | {"knobs": p}) for p in space.points]
    return sorted(seconds(p) for p in points)
