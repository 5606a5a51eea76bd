"""The JobSpec that a command line describes, for a job here and for one that is sent to a server."""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

from service.rules import checked
from tuner.errors import UserError
from tuner.types import Budget, JobSpec


def job_spec(args: argparse.Namespace) -> JobSpec:
    """The job that the command line asks for. Raises UserError for what cannot be on any device."""
    spec = JobSpec(
        model=model_digest(args.model),
        device=args.device,
        strategy=args.strategy,
        budget=Budget(args.trials, args.seconds),
        cores=args.cores,
        precision=args.precision,
        accuracy=args.accuracy,
        shapes=dict(args.shape),
        disabled_passes=tuple(args.disable_pass),
        plan=read_json(args.plan) if args.plan else None,
        memory_limit=args.memory_limit,
        seed=args.seed,
        fresh=args.fresh,
    )
    return checked(spec)


def model_digest(path: Path) -> str:
    """SHA-256 of a file. Raises UserError when it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"The model {path} cannot be read: {error.strerror}.", code="no-model") from error


def read_json(path: Path) -> Any:
    """A JSON file's value. Raises UserError when it is none."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}.", code="bad-plan") from error
