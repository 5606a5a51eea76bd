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


_NVCC = """#!/bin/sh
case "$1" in
--version) echo "Cuda compilation tools, release 13.0, V13.0.88"; exit ;;
--list-gpu-arch) echo compute_80; echo compute_86; echo compute_90; exit ;;
esac
for word in "$@"; do
  case "$word" in -arch=*) arch="${word#-arch=}" ;; esac
  case "$last" in -o) out="$word" ;; esac
  last="$word"
done
read -r first <"$last"
if [ "$first" = "refuse me" ]; then
  echo "kernel.cu(658): error: too many arguments in function call" >&2
  exit 1
fi
echo "cubin of $arch" >"$out"
echo "    976 bytes stack frame, 2368 bytes spill stores, 2084 bytes spill loads" >&2
echo "ptxas info    : Used 96 registers, used 1 barriers, 32448 bytes smem, 376 bytes cmem[0]" >&2
"""


def fake_nvcc(folder: Path, *, broken: bool = False) -> Path:
    """A folder for PATH with an nvcc 13.0 for sm_80, sm_86 and sm_90, which refuses the source "refuse me"."""
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "nvcc"
    program.write_text("#!/bin/sh\nexit 1\n" if broken else _NVCC)
    program.chmod(0o755)
    return folder
