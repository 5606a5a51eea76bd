"""The command ``fusetune``. Engine code is imported inside the commands, so that ``--help`` is quick."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from tuner.environment import one_thread
from tuner.errors import FusetuneError, UserError

USER_ERROR, FAILURE, INTERRUPTED = 2, 1, 130
_EPILOG = "The token comes from $FUSETUNE_TOKEN or --token-file, so that nobody reads it from the list of processes."


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 1 failed, 2 bad input, 130 interrupted."""
    parser = _parser()
    args = parser.parse_args(argv)
    one_thread()
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
    _search_options(tune)
    tune.add_argument("--input", type=_named_path, action="append", default=[], metavar="NAME=FILE.npy",
                      help="verify on this input (random otherwise)")  # fmt: skip
    tune.add_argument("--db", metavar="URL", help="database of records (default: SQLite in your data folder)")
    tune.add_argument("--out", type=Path, metavar="DIR", help="where the artifact goes (default: NAME.fusetune)")
    tune.add_argument("--cluster", metavar="HOST:PORT", help="measure on a device of the cluster with this head")
    tune.add_argument("--no-baselines", action="store_true", help="do not time the unoptimised and unfused plans")
    tune.add_argument("--build-only", action="store_true", help="build for a GPU that is not here; measure nothing")
    tune.add_argument("--results", type=Path, action="append", default=[], metavar="RESULTS.json",
                      help="what `fusetune measure` found, for another round of --build-only")  # fmt: skip
    tune.add_argument("--json", action="store_true", help="print the report as JSON, progress on stderr")
    tune.set_defaults(run=_lazy("service.commands.gpu", "tune"))

    measure = commands.add_parser(
        "measure", help="measure a bundle of --build-only on the GPU here", allow_abbrev=False
    )
    measure.add_argument("bundle", type=Path, metavar="BUNDLE")
    measure.add_argument("--out", type=Path, metavar="RESULTS.json", help="default: results.json in the bundle")
    measure.add_argument("--limit", type=_positive, default=20.0, metavar="S", help="for one candidate (default 20)")
    measure.add_argument("--json", action="store_true", help="print the results as JSON, progress on stderr")
    measure.set_defaults(run=_lazy("service.commands.gpu", "measure"))

    plan = commands.add_parser("plan", help="show layers and blocks; nothing is measured", allow_abbrev=False)
    _model_options(plan)
    plan.add_argument(
        "--strategy", metavar="NAME", help="greedy (default), none; on simulated devices fixed-greedy (default) ..."
    )
    plan.add_argument("--cores", type=_core_list, metavar="auto|1,2,4")
    plan.add_argument("--plan", type=Path, metavar="PLAN.json", help="check and show this plan instead")
    plan.add_argument("--json", action="store_true", help="print the plan as JSON (what --plan reads)")
    plan.set_defaults(run=_lazy("service.commands.plan", "plan"))

    bench = commands.add_parser("bench", help="time a tuned model against libraries, in turns", allow_abbrev=False)
    _model_options(bench)
    bench.add_argument("--artifact", type=Path, metavar="DIR", help="what tune wrote (default: NAME.fusetune)")
    bench.add_argument("--peers", type=_words, default=("onnxruntime",), metavar="A,B",
                       help="onnxruntime, openvino, torch, torch-compile, tvm (default onnxruntime)")  # fmt: skip
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

    zoo = commands.add_parser("zoo", help="list the thirteen models that come along, or write them", allow_abbrev=False)
    zoo.add_argument("names", nargs="*", metavar="NAME", help="models to write ('all' for every one)")
    zoo.add_argument("--out", type=Path, default=Path(), metavar="DIR")
    zoo.add_argument("--seed", type=int, default=0, metavar="N", help="of the random weights")
    zoo.set_defaults(run=_lazy("service.commands.show", "zoo"))

    devices = commands.add_parser("devices", help="what this machine can measure on", allow_abbrev=False)
    devices.add_argument(
        "--db", metavar="URL", help="database of what was measured (default: SQLite in your data folder)"
    )
    devices.add_argument("--json", action="store_true")
    devices.set_defaults(run=_lazy("service.commands.show", "devices"))

    calibrate = commands.add_parser("calibrate", help="teach the cost models by synthetic blocks", allow_abbrev=False)
    calibrate.add_argument(
        "--device", default="cpu", metavar="NAME", help="what to calibrate (default cpu; gpu: its roof)"
    )
    calibrate.add_argument(
        "--seconds", type=_positive, metavar="S", help="that measuring may take (default: as long as needed)"
    )
    calibrate.add_argument("--blocks", type=_natural, default=256, metavar="N", help="of the design (default 256)")
    calibrate.add_argument(
        "--kernels",
        type=_natural,
        default=64,
        metavar="N",
        help="synthetic layers whose knobs are tried; not on sim: (default 64)",
    )
    calibrate.add_argument("--out", type=Path, metavar="DIR", help="where plots and figures go")
    calibrate.add_argument("--db", metavar="URL", help="database of calibrations (default: SQLite in your data folder)")
    calibrate.add_argument("--seed", type=int, default=0, metavar="N")
    calibrate.add_argument("--fresh", action="store_true", help="forget what an earlier run measured")
    calibrate.add_argument("--json", action="store_true", help="print the figures as JSON, progress on stderr")
    calibrate.set_defaults(run=_lazy("service.commands.calibrate", "calibrate"))

    records = commands.add_parser("records", help="best known kernels in the database", allow_abbrev=False)
    records.add_argument("--workload", metavar="HASH", help="hash of a workload, or its beginning")
    records.add_argument("--device", metavar="FINGERPRINT")
    records.add_argument("--limit", type=_natural, default=50, metavar="N")
    records.add_argument("--db", metavar="URL")
    records.add_argument("--json", action="store_true")
    records.set_defaults(run=_lazy("service.commands.show", "records"))
    _remote(commands)

    worker = commands.add_parser("worker", help="join a cluster, to build and measure there", allow_abbrev=False)
    worker.add_argument("--cluster", required=True, metavar="HOST:PORT", help="address of the cluster's head")
    worker.add_argument("--device", default="auto", metavar="NAME",
                        help="measure on: cpu, gpu, none; auto = what there is (default)")  # fmt: skip
    worker.add_argument("--name", metavar="NAME", help="what users call the device (default cpu or gpu)")
    worker.add_argument("--builders", type=_natural, metavar="N", help="kernels built side by side (default: cores)")
    worker.set_defaults(run=_lazy("service.commands.worker", "worker"))

    _serve_options(commands.add_parser("serve", help="the service: REST API, queue and dashboard", allow_abbrev=False))
    _token_options(commands.add_parser("token", help="who may use a server: API tokens and sign-in links"))
    return parser


def _serve_options(serve: argparse.ArgumentParser) -> None:
    serve.add_argument("--host", metavar="ADDRESS", help="where to listen (default 127.0.0.1: this machine only)")
    serve.add_argument("--port", type=_natural, metavar="N", help="default 8077; 0 takes a free one")
    _store_options(serve)
    serve.add_argument("--root-path", metavar="/PREFIX", help="path that a proxy puts before every address")
    serve.add_argument("--allowed-host", action="append", default=[], metavar="NAME",
                       help="a further name that browsers may know the server by")  # fmt: skip
    serve.add_argument("--trust-proxy", action="store_true", help="take client and scheme from X-Forwarded-*")
    serve.add_argument("--https", action="store_true", help="clients come by HTTPS only, through a proxy")
    serve.add_argument("--no-auth", action="store_true", help="let everybody on this machine in")
    serve.add_argument("--rate", type=_natural, metavar="N", help="requests a minute from one client; 0 = any")
    serve.add_argument("--max-upload", type=_bytes, metavar="BYTES", help="of one model file (default 2G)")
    serve.add_argument("--quota", type=_bytes, metavar="BYTES", help="of all models and artifacts (default 50G)")
    serve.add_argument("--retention-days", type=_positive, metavar="N", help="delete finished jobs older than this")
    serve.add_argument("--jobs-per-device", type=_natural, metavar="N", help="run at once, in turns (default 1)")
    serve.add_argument("--cluster", metavar="HOST:PORT", help="drive the devices of this cluster, not this machine's")
    serve.add_argument("--lease", type=_positive, metavar="S",
                       help="a driver that is silent for so long has lost its job (default 15)")  # fmt: skip
    serve.add_argument("--no-dispatch", action="store_true", help="serve only; other servers run the jobs")
    serve.add_argument("--log-json", action="store_true", help="log as JSON lines, each request too")
    serve.add_argument("--demo", type=Path, metavar="MODEL.onnx", help="tune this model and show how it goes")
    serve.add_argument("--seconds", type=_positive, metavar="S", help="that the demo may take (default 300)")
    serve.add_argument("--once", action="store_true", help="end when the demo's job has ended")
    serve.set_defaults(run=_lazy("service.commands.serve", "serve"))


def _token_options(token: argparse.ArgumentParser) -> None:
    actions = token.add_subparsers(dest="action", required=True, metavar="ACTION")
    create = actions.add_parser("create", help="make a token; its secret is shown once", allow_abbrev=False)
    create.add_argument("name", help="what the token is for")
    create.add_argument("--role", choices=("full", "read"), default="full", help="read may look and download only")
    listing = actions.add_parser("list", help="tokens, who they are for, when they were last used", allow_abbrev=False)
    listing.add_argument("--all", action="store_true", help="revoked ones too")
    revoke = actions.add_parser("revoke", help="refuse a token from now on", allow_abbrev=False)
    revoke.add_argument("id", help="as `fusetune token list` shows it")
    login = actions.add_parser("login", help="print a link that signs one browser in", allow_abbrev=False)
    login.add_argument("--url", metavar="URL", help="of the server as your browser reaches it")
    for each in (create, listing, revoke, login):
        _store_options(each)
    for each in (create, listing):
        each.add_argument("--json", action="store_true")
    token.set_defaults(run=_lazy("service.commands.token", "token"))


def _store_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--db", metavar="URL", help="database (default $FUSETUNE_DB, or SQLite in the data folder)")
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of models, artifacts and the SQLite file")


def _model_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, metavar="MODEL.onnx")
    parser.add_argument("--device", default="cpu", metavar="NAME", help="what to tune for (default cpu)")
    parser.add_argument("--shape", type=_named_shape, action="append", default=[], metavar="NAME=1,3,224,224",
                        help="shape of an input whose shape the model leaves open")  # fmt: skip
    parser.add_argument("--disable-pass", action="append", default=[], metavar="P", help="switch a cleaning pass off")


def _search_options(parser: argparse.ArgumentParser) -> None:
    """What a job may be told about its search, here or on a server."""
    parser.add_argument("--trials", type=_natural, metavar="N", help="measure at most N candidates; 0 = defaults only")
    parser.add_argument("--seconds", type=_positive, metavar="S", help="from start to artifact (default 300)")
    parser.add_argument(
        "--strategy",
        default="joint",
        metavar="NAME",
        help="joint (default), dlfusion, ...; on real devices also greedy; with options: tpe:plans=200",
    )
    parser.add_argument("--cores", type=_core_list, metavar="auto|1,2,4", help="core counts to consider per block")
    parser.add_argument("--precision", default="fp32", metavar="P", help="fp32, bf16, int8; fp16, tf32 on GPUs")
    parser.add_argument("--accuracy", type=_share, default=0.0, metavar="LIMIT",
                        help="largest relative error of the model (default 1e-4; in bf16 2e-2, int8 5e-2)")  # fmt: skip
    parser.add_argument("--plan", type=Path, metavar="PLAN.json", help="a hand-written plan instead of our own")
    parser.add_argument("--memory-limit", type=_bytes, metavar="BYTES",
                        help="that the tuned model's weights and buffers may take (e.g. 300M)")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--fresh", action="store_true", help="do not use stored records")


def _remote(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Commands that talk to a server."""

    def command(name: str, function: str, help: str) -> argparse.ArgumentParser:
        parser = commands.add_parser(name, help=help, allow_abbrev=False, epilog=_EPILOG)
        parser.add_argument("--server", metavar="URL", help="default: $FUSETUNE_SERVER or http://127.0.0.1:8077")
        parser.add_argument(
            "--token-file", type=Path, metavar="FILE", help="holds the token (default: $FUSETUNE_TOKEN)"
        )
        parser.set_defaults(run=_lazy("service.commands.remote", function))
        return parser

    submit = command("submit", "submit", "queue a job on a server")
    _model_options(submit)
    _search_options(submit)
    submit.add_argument("--name", metavar="TEXT", help="of the model (default: its file's)")
    submit.add_argument("--priority", type=int, default=0, metavar="N", help="higher goes first")
    submit.add_argument("--notes", metavar="TEXT")
    submit.add_argument("--wait", action="store_true", help="watch it until its end")
    submit.add_argument("--json", action="store_true")

    status = command("status", "status", "the newest jobs of a server, or one of them")
    status.add_argument("job", nargs="?", metavar="JOB")
    status.add_argument("--state", metavar="STATE", help="QUEUED, RUNNING, PAUSED, SUCCEEDED, FAILED, CANCELLED")
    status.add_argument("--limit", type=_natural, default=20, metavar="N")
    status.add_argument("--json", action="store_true")

    watch = command("watch", "watch", "show a job as it works; Ctrl-C leaves it running")
    watch.add_argument("job", metavar="JOB")
    watch.add_argument("--json", action="store_true", help="print the report at the end")

    for name, help in (
        ("cancel", "end a job; it keeps its best so far"),
        ("pause", "let a job rest"),
        ("resume", "let a paused job go on"),
        ("retry", "run an ended job again: only what failed for a passing reason is repeated"),
    ):
        parser = command(name, "act", help)
        parser.add_argument("job", metavar="JOB")
        parser.add_argument("--json", action="store_true")

    download = command("download", "download", "fetch a file of a job")
    download.add_argument("job", metavar="JOB")
    download.add_argument("--what", choices=("artifact", "plan", "report", "report.html", "log"),
                          help="default: artifact")  # fmt: skip
    download.add_argument("--format", choices=("metaschedule", "jsonl", "csv", "optuna"), help="of a log")
    download.add_argument("--out", type=Path, metavar="PATH", help="a file or a folder (default: here)")


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


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0 and at most 1")
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
