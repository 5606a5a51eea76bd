"""The folder that an artifact goes to: checked before any work is done, and filled or replaced in one move."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

from tuner.errors import UserError


def check_writable(out: Path | None) -> None:
    """Raise UserError when ``out`` cannot become the artifact's folder, or holds what is not ours to replace."""
    if out is None:
        return
    try:
        if out.exists() and not out.is_dir():
            raise UserError(f"{out} is a file; --out needs a folder.", code="bad-output")
        if out.absolute().is_mount():
            raise UserError(f"{out} is a mount point; --out needs a folder inside it.", code="bad-output")
        if out.exists() and any(out.iterdir()) and not _is_artifact(out):
            raise UserError(f"The folder {out} holds something that is no artifact of fusetune.", code="bad-output",
                            hint="It was left as it is; name another folder.")  # fmt: skip
        parent = next(p for p in out.absolute().parents if p.exists())  # the artifact is made beside ``out``
        with tempfile.TemporaryFile(dir=parent):
            pass
    except OSError as error:
        raise UserError(f"The output folder {out} cannot be written: {error.strerror}.", code="bad-output") from error


def _is_artifact(folder: Path) -> bool:
    """Whether an earlier run wrote this folder, in whatever version."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
    except (ValueError, FileNotFoundError):
        return False
    if not isinstance(manifest, dict) or "format" not in manifest:
        return False
    return manifest.get("simulated") is True or "model.so" in manifest.get("sha256", ())


def install(folder: Path, out: Path) -> None:
    """Put a finished artifact at ``out``: copied beside it first, so that no half-written one ever stands there.

    An earlier artifact is replaced. Raises UserError when ``out`` holds anything else.
    """
    check_writable(out)  # it may have been filled meanwhile
    out = out.absolute()
    out.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        shutil.copytree(folder, fresh, dirs_exist_ok=True)
        fresh.chmod(0o755)
        if out.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{out.name}-old-", dir=out.parent))
            out.rename(old / "previous")
            fresh.rename(out)
            shutil.rmtree(old)
        else:
            fresh.rename(out)
    except OSError as error:
        shutil.rmtree(fresh, ignore_errors=True)
        raise UserError(f"The output folder {out} cannot be written: {error}.", code="bad-output") from error
