"""Whether TVM's per-store features order a convolution's knobs better than ours: ``python -m bench.search.stores``.

Trees learn the points of all recordings but one, the way a calibrated search does (the logarithm of the time over the
expected one), and order the points of the one left out. Lowering and extraction of every point take some minutes; what
was extracted is kept in OUT. The table goes to the standard output.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from bench.search.record import RECORDINGS
from cost_model.boosted import BoostedTrees
from tuner.measure.replay import Recording
from tuner.search.features import Features

SETS = {"ours": ("ours",), "TVM's": ("stores",), "both": ("ours", "stores")}
ARITHMETIC = 16  # leading columns of a store's features: floating-point, integer and Boolean operations
FIRST = 10  # points of an order that are looked at


@dataclass(frozen=True)
class Space:
    """A recorded space as arrays."""

    name: str
    expected: np.ndarray  # [points] log-seconds by the analytic model
    seconds: np.ndarray  # [points] measured log-seconds
    rows: dict[str, np.ndarray]  # features by name, each [points, columns]


def summary(stores: np.ndarray) -> np.ndarray:
    """One row for a kernel of any number of stores: the one that computes most, the sum of all, their number."""
    busiest = int(np.argmax(stores[:, :ARITHMETIC].sum(axis=1)))
    return np.concatenate([stores[busiest], stores.sum(axis=0), [len(stores)]])


def left_out(spaces: Sequence[Space], index: int, features: Sequence[str]) -> tuple[float, float]:
    """(rank correlation, best speed among the first ten as a share of the space's best) of the space at ``index``."""

    def rows(space: Space) -> np.ndarray:
        return np.hstack([space.rows[f] for f in features])

    def targets(space: Space) -> np.ndarray:
        beyond = space.seconds - space.expected
        return np.asarray(beyond - np.median(beyond))

    others = [s for i, s in enumerate(spaces) if i != index]
    model = BoostedTrees()
    model.update(np.concatenate([rows(s) for s in others]), np.concatenate([targets(s) for s in others]))
    space = spaces[index]
    return ordered(space, space.expected + model.predict(rows(space))[0])


def ordered(space: Space, predicted: np.ndarray) -> tuple[float, float]:
    """How good an order by predicted log-seconds is; see ``left_out``."""
    found = space.seconds[np.argsort(predicted, kind="stable")[:FIRST]].min()
    return float(spearmanr(predicted, space.seconds)[0]), float(np.exp(space.seconds.min() - found))


def load(recording: Recording, out: Path) -> Space:
    """The points that did not fail."""
    from bench.search.evolution import extract_all

    began = time.process_time()
    stores = extract_all(recording, out / f"{recording.name}.features.npz")
    spent = 1e3 * (time.process_time() - began) / len(stores)
    print(f"{recording.name}: {spent:.2f} ms a point, if not kept from before", file=sys.stderr, flush=True)
    known = [p for p in recording.points if p.seconds is not None]
    knobs = [dict(p.knobs) for p in known]
    c = recording.candidate
    about = Features(recording.workload, c.template, c.cores, recording.device, c.layouts)
    per_store = [summary(stores[tuple(k[n] for n in recording.values)]) for k in knobs]
    rows = {"ours": about.rows(knobs), "stores": np.asarray(per_store, dtype=np.float32)}
    return Space(recording.name, about.expected(knobs), np.log([p.seconds or 1.0 for p in known]), rows)


def table(spaces: Sequence[Space]) -> str:
    """Markdown: a row per space left out."""
    lines = ["| space left out | analytic model alone | " + " | ".join(f"with {name}" for name in SETS) + " |",
             "|:--|--:|" + "--:|" * len(SETS)]  # fmt: skip
    for i, space in enumerate(spaces):
        found = [ordered(space, space.expected), *(left_out(spaces, i, chosen) for chosen in SETS.values())]
        lines.append(f"| {space.name} | {' | '.join(f'{rank:.2f}, {best:.0%}' for rank, best in found)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.search.stores", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/search"), help="where features are kept")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    print(table([load(Recording.load(p), options.out) for p in sorted(RECORDINGS.glob("*.json.gz"))]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
