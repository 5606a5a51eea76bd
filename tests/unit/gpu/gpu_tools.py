"""What tests of the GPU rooms share: an nvidia-smi that says what it is told to."""

from __future__ import annotations

from pathlib import Path

RTX3090 = "NVIDIA GeForce RTX 3090, 8.6, 24576, 2100, 9751, 580.95.05"


def fake_smi(folder: Path, says: str, code: int = 0) -> Path:
    """A folder for PATH in which nvidia-smi prints ``says``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "says").write_text(f"{says}\n" if says else "")
    program = folder / "nvidia-smi"
    program.write_text(f'#!/bin/sh\nwhile read -r line; do echo "$line"; done <{folder}/says\nexit {code}\n')
    program.chmod(0o755)
    return folder
