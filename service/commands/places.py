"""Where a server keeps things, from the options --db and --data that ``serve`` and ``token`` share."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from db.urls import default_url
from service.settings import default_data


def data(args: argparse.Namespace) -> Path:
    """The folder of blobs and work files, absolute: drivers run elsewhere."""
    folder: Path = args.data or default_data()
    return folder.absolute()


def database(args: argparse.Namespace) -> str:
    """The database's URL: --db, $FUSETUNE_DB, or SQLite in the folder that --data names."""
    if args.db:
        return str(args.db)
    if args.data is None or os.environ.get("FUSETUNE_DB"):
        return default_url()
    return f"sqlite:///{data(args) / 'fusetune.db'}"
