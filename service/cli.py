"""The command ``fusetune``. Engine code is imported inside the commands, so that ``--help`` is quick."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from tuner.errors import FusetuneError, UserError

USER_ERROR, FAILURE, INTERRUPTED = 2, 1, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 1 failed, 2 bad input, 130 interrupted."""
    parser = _parser()
    args = parser.parse_args(argv)
    try:
        code: int = args.run(args)
        return code
    except FusetuneError as error:
        _complain(error, getattr(args, "json", False))
        return USER_ERROR if isinstance(error, UserError) else FAILURE
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        return FAILURE


def _complain(error: FusetuneError, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"error": {"code": error.code, "message": error.message, "hint": error.hint}}))
    print(f"fusetune: {error}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fusetune", description="Finds the fastest verified build of an ONNX model for the machine at hand."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    tune = commands.add_parser("tune", help="tune a model and write an artifact", allow_abbrev=False)
    _model_options(tune)
    tune.add_argument("--trials", type=_natural, metavar="N", help="measure at most N candidates; 0 = defaults only")
    tune.add_argument("--seconds", type=_positive, metavar="S", help="from start to artifact (default 300)")
    tune.add_argument("--strategy", default="greedy", metavar="NAME", help="greedy (default) or none")
    tune.add_argument("--cores", type=_core_list, metavar="auto|1,2,4", help="core counts to consider per block")
    tune.add_argument("--precision", default="fp32", metavar="P", help="fp32")
    tune.add_argument("--plan", type=Path, metavar="PLAN.json", help="a hand-written plan instead of our own")
    tune.add_argument("--input", type=_named_path, action="append", default=[], metavar="NAME=FILE.npy",
                      help="verify on this input (random otherwise)")  # fmt: skip
    tune.add_argument("--memory-limit", type=_bytes, metavar="BYTES", help="that one candidate may use (e.g. 2G)")
    tune.add_argument("--seed", type=int, default=0, metavar="N")
    tune.add_argument("--db", metavar="URL", help="database of records (default: SQLite in your data folder)")
    tune.add_argument("--fresh", action="store_true", help="do not use stored records")
    tune.add_argument("--out", type=Path, metavar="DIR", help="where the artifact goes (default: NAME.fusetune)")
    tune.add_argument("--no-baselines", action="store_true", help="do not time the unoptimised and unfused plans")
    tune.add_argument("--json", action="store_true", help="print the report as JSON, progress on stderr")
    tune.set_defaults(run=_lazy("service.commands.tune", "tune"))

    plan = commands.add_parser("plan", help="show layers and blocks; nothing is measured", allow_abbrev=False)
    _model_options(plan)
    plan.add_argument("--strategy", default="greedy", metavar="NAME")
    plan.add_argument("--cores", type=_core_list, metavar="auto|1,2,4")
    plan.add_argument("--plan", type=Path, metavar="PLAN.json", help="check and show this plan instead")
    plan.add_argument("--json", action="store_true", help="print the plan as JSON (what --plan reads)")
    plan.set_defaults(run=_lazy("service.commands.show", "plan"))

    bench = commands.add_parser("bench", help="time a tuned model against libraries, in turns", allow_abbrev=False)
    _model_options(bench)
    bench.add_argument("--artifact", type=Path, metavar="DIR", help="what tune wrote (default: NAME.fusetune)")
    bench.add_argument("--peers", type=_words, default=("onnxruntime",), metavar="A,B",
                       help="onnxruntime, openvino, tvm (default onnxruntime)")  # fmt: skip
    bench.add_argument("--rounds", type=_natural, default=15, metavar="N")
    bench.add_argument("--no-baselines", action="store_true", help="leave out unoptimised, unfused and default")
    bench.add_argument("--json", action="store_true")
    bench.set_defaults(run=_lazy("service.commands.compare", "bench"))

    run = commands.add_parser("run", help="run an artifact on given or random inputs", allow_abbrev=False)
    run.add_argument("artifact", type=Path, metavar="DIR")
    run.add_argument("--input", type=_named_path, action="append", default=[], metavar="NAME=FILE.npy")
    run.add_argument("--output", type=Path, metavar="OUT.npz", help="where the outputs go")
    run.add_argument("--seed", type=int, default=0, metavar="N", help="of random inputs")
    run.set_defaults(run=_lazy("service.commands.compare", "run"))

    zoo = commands.add_parser("zoo", help="list the nine models that come along, or write them", allow_abbrev=False)
    zoo.add_argument("names", nargs="*", metavar="NAME", help="models to write ('all' for every one)")
    zoo.add_argument("--out", type=Path, default=Path(), metavar="DIR")
    zoo.add_argument("--seed", type=int, default=0, metavar="N", help="of the random weights")
    zoo.set_defaults(run=_lazy("service.commands.show", "zoo"))

    devices = commands.add_parser("devices", help="what this machine can measure on", allow_abbrev=False)
    devices.add_argument("--json", action="store_true")
    devices.set_defaults(run=_lazy("service.commands.show", "devices"))

    records = commands.add_parser("records", help="best known kernels in the database", allow_abbrev=False)
    records.add_argument("--workload", metavar="HASH", help="hash of a workload, or its beginning")
    records.add_argument("--device", metavar="FINGERPRINT")
    records.add_argument("--limit", type=_natural, default=50, metavar="N")
    records.add_argument("--db", metavar="URL")
    records.add_argument("--json", action="store_true")
    records.set_defaults(run=_lazy("service.commands.show", "records"))
    return parser


def _model_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, metavar="MODEL.onnx")
    parser.add_argument("--device", default="cpu", metavar="NAME", help="what to tune for (default cpu)")
    parser.add_argument("--shape", type=_named_shape, action="append", default=[], metavar="NAME=1,3,224,224",
                        help="shape of an input whose shape the model leaves open")  # fmt: skip
    parser.add_argument("--disable-pass", action="append", default=[], metavar="P", help="switch a cleaning pass off")


class _lazy:
    """A command that is imported when it is run."""

    def __init__(self, module: str, function: str) -> None:
        self._module, self._function = module, function

    def __call__(self, args: argparse.Namespace) -> int:
        from importlib import import_module

        code: int = getattr(import_module(self._module), self._function)(args)
        return code


# argument types: argparse turns ArgumentTypeError into one line and exit code 2 -------------------------------------


def _natural(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 up")
    return int(text)


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number of seconds")
    return value


def _bytes(text: str) -> int:
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    number, unit = (text[:-1], units[text[-1].upper()]) if text and text[-1].upper() in units else (text, 1)
    if not number.isdigit() or int(number) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of bytes (such as 500M or 2G)")
    return int(number) * unit


def _core_list(text: str) -> tuple[int, ...] | None:
    if text == "auto":
        return None
    parts = text.split(",")
    if not all(p.isdigit() and int(p) > 0 for p in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is neither 'auto' nor core counts such as 1,2,4")
    return tuple(sorted({int(p) for p in parts}))


def _words(text: str) -> tuple[str, ...]:
    return tuple(w for w in text.split(",") if w)


def _named_shape(text: str) -> tuple[str, tuple[int, ...]]:
    name, _, dims = text.rpartition("=")
    if not name or not all(d.strip().isdigit() for d in dims.split(",")):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=1,3,224,224")
    return name, tuple(int(d) for d in dims.split(","))


def _named_path(text: str) -> tuple[str, Path]:
    name, _, path = text.rpartition("=")
    if not name or not path:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=FILE.npy")
    return name, Path(path)


if __name__ == "__main__":
    sys.exit(main())
