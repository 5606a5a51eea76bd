"""Where a server keeps things, from the options --db and --data that ``serve`` and ``token`` share."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from db.urls import data_folder, default_url


def data(args: argparse.Namespace) -> Path:
    """The folder of blobs and work files, absolute: drivers run elsewhere."""
    folder: Path = args.data or data_folder()
    return folder.absolute()


def database(args: argparse.Namespace) -> str:
    """The database's URL: --db, $FUSETUNE_DB, or SQLite in the folder that --data names."""
    if args.db:
        return str(args.db)
    if args.data is None or os.environ.get("FUSETUNE_DB"):
        return default_url()
    return f"sqlite:///{data(args) / 'fusetune.db'}"
