"""Guards the arrows of docs' design: who may import whom, and that tvm stays out of everything but the engine."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("service", "tuner", "cost_model", "db", "bench")

# What each room may import at module level, and inside functions on top of that.
ARROWS = {
    # The command line reaches the engine and `fusetune bench` as commands, in functions.
    "service": (
        {
            "service",
            "db",
            "tuner.types",
            "tuner.environment",
            "tuner.errors",
            "tuner.events",
            "tuner.lifeline",
            "tuner.precision",
            "tuner.scratch",
            "tuner.search.strategies.options",
            "tuner.versions",
        },
        {"tuner", "bench"},
    ),
    "tuner": ({"tuner", "cost_model"}, set()),
    "db": ({"db", "tuner.types", "tuner.errors", "tuner.versions"}, set()),
    "cost_model": ({"cost_model"}, set()),
    "bench": ({"bench", "service", "tuner", "cost_model", "db"}, set()),
}
# Parts of tuner that others read without an engine.
WITHOUT_TVM = (
    "tuner.types", "tuner.errors", "tuner.environment", "tuner.events", "tuner.lifeline", "tuner.versions",
    "tuner.precision",
    "tuner.graph", "tuner.plan", "tuner.search.strategies.options",
)  # fmt: skip


@dataclass(frozen=True)
class Import:
    importer: str
    imported: str
    line: int
    lazy: bool  # inside a function, or for the type checker only

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.imported}{' lazily' if self.lazy else ''}"


def within(name: str, packages: set[str] | tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def imports_of(path: Path, module: str) -> Iterator[Import]:
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]

    def visit(node: ast.AST, lazy: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(module, alias.name, node.lineno, lazy)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            base = ".".join(parts[: len(parts) - node.level + 1]) if node.level else ""
            source = ".".join(filter(None, (base, node.module)))
            for alias in node.names:
                # `from tuner import session` imports a module, `from tuner.types import Trial` a name of one.
                full = f"{source}.{alias.name}"
                yield Import(module, full if is_module(full) else source, node.lineno, lazy)
        functions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
        for child in ast.iter_child_nodes(node):
            typing_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test) and child in node.body
            yield from visit(child, lazy or typing_only or isinstance(child, functions))

    yield from visit(ast.parse(path.read_text(), str(path)), False)


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def modules(room: str) -> Iterator[tuple[Path, str]]:
    for path in sorted((ROOT / room).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield path, ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_import_only_along_the_arrows(room: str) -> None:
    always, lazily = ARROWS[room]
    broken = [
        str(each)
        for path, module in modules(room)
        for each in imports_of(path, module)
        if within(each.imported, ROOMS)
        and not within(each.imported, always)
        and not (each.lazy and within(each.imported, lazily))
    ]
    assert broken == []


@pytest.mark.parametrize("room", ["service", "tuner", "cost_model", "db"])
def test_only_the_engine_imports_tvm(room: str) -> None:
    broken = [
        str(each)
        for path, module in modules(room)
        if room != "tuner" or within(module, WITHOUT_TVM)
        for each in imports_of(path, module)
        if within(each.imported, ("tvm", "tvm_ffi"))
    ]
    assert broken == []


def test_importing_the_server_and_the_values_loads_no_tvm() -> None:
    """Every module, not the packages alone, so that what they import from elsewhere in tuner is seen too."""
    names = [
        module
        for room in ("service", "db", "cost_model", "tuner")
        for _, module in modules(room)
        if (room != "tuner" or within(module, WITHOUT_TVM))
        and not module.endswith("__main__")
        and not within(module, ("db.migrations.env",))  # runs a migration when imported
    ]
    program = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    importlib.import_module(name)\n"
        "    assert not {'tvm', 'tvm_ffi'} & set(sys.modules), name + ' loads tvm'\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *names], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


def test_the_guard_sees_every_form_of_import(tmp_path: Path) -> None:
    file = tmp_path / "sample.py"
    file.write_text(
        "import tvm.relax as r\nfrom tuner import types, session\n"
        "from . import store\nfrom ..tuner.types import Trial\n"
        "if TYPE_CHECKING:\n    import a\nelse:\n    import b\n"
        "def f():\n    class C:\n        import c\nclass D:\n    import d\n"
    )
    seen = {(each.imported, each.lazy) for each in imports_of(file, "db.sample")}
    assert {("tvm.relax", False), ("tuner.types", False), ("db.store", False)} <= seen
    assert {("a", True), ("b", False), ("c", True), ("d", False)} <= seen
