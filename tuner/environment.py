"""The environment that child processes get."""

from __future__ import annotations

import gc
import os
import sys

_SECRET = ("FUSETUNE_", "RAY_")  # beginnings of variables that may hold passwords and tokens


def child_environment() -> dict[str, str]:
    """Ours, with the modules that we find, without our own settings and the cluster's, which may hold secrets.

    No child has a use for those: it is told what to do, and what it works on may be hostile. Nor do children look for
    modules in the working folder, where a user's random.py would stand in for Python's, unless we do.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_SECRET)}
    return kept | {"PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path), "PYTHONSAFEPATH": "1"}


def one_thread() -> None:
    """Have this process's linear algebra keep to one thread, as far as it is not loaded yet and nobody said otherwise.

    What deciding multiplies and factorises is small: a second thread costs more than it saves, three times as much
    where others use the cores, and goes on spinning when something is to be measured.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy's and scipy's


def collect_rarely() -> None:
    """Look for garbage that reference counts do not find after each 20,000 new objects, not after each 700.

    Plans of a thousand layers are made of millions of objects that all stay: every look at them is in vain. A driver's
    deciding takes a sixth less time for it, with DenseNet-264.
    """
    gc.set_threshold(20_000, 10, 10)
