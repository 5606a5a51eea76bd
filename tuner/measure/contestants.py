"""The engines that can run a model in a contest, one small class each. Imported in the contestant's process only.

All of them compute in the asked precision with the asked number of threads, reuse what they can between calls (inputs
are bound once, before the timing), and return when the outputs are complete.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from tuner.build.runtime_only import runtime_only
from tuner.errors import CandidateError

Arrays = Mapping[str, np.ndarray]
NEWEST_IR = 10  # version of ONNX's file format that every ONNX Runtime we may meet reads
_IR_VERSION_TAG = 0x08  # field 1, a number, in protocol buffers' wire format


class Engine(ABC):
    """Runs one model in this process.

    The constructor imports the engine's package (CandidateError if it is missing) and does nothing else that is slow.
    Any exception of a method makes the contestant fail with that exception's text.
    """

    def __init__(self, path: Path, options: Mapping[str, Any], threads: int) -> None:
        self.path = path
        self.options = options
        self.threads = threads

    @abstractmethod
    def load(self, inputs: Arrays) -> None:
        """Load and compile the model. Called once; ``inputs`` show the shapes to be ready for."""

    @abstractmethod
    def prepare(self, inputs: Arrays) -> Callable[[], Any]:
        """A function that runs the model on these inputs; it is what gets timed."""

    @abstractmethod
    def outputs(self, result: Any) -> dict[str, np.ndarray]:
        """Outputs by name, in the model's order, from what the prepared function returned."""


class Artifact(Engine):
    """A model built by fusetune. Its number of threads is fixed in it; it may be fewer than the contest allows."""

    def __init__(self, path: Path, options: Mapping[str, Any], threads: int) -> None:
        super().__init__(path, options, threads)
        runtime_only()
        _package("tvm")

    def load(self, inputs: Arrays) -> None:
        from tuner.build.artifact import load

        self._model = load(self.path)
        cores = self._model.manifest["cores"]
        if cores > self.threads:
            raise CandidateError(f"The artifact uses {cores} threads, the contest allows {self.threads}.")

    def prepare(self, inputs: Arrays) -> Callable[[], Any]:
        _require(inputs, [i["name"] for i in self._model.manifest["inputs"]])
        call: Callable[[], Any] = self._model.prepare(inputs)
        return call

    def outputs(self, result: Any) -> dict[str, np.ndarray]:
        return _tvm_outputs(result, [o["name"] for o in self._model.manifest["outputs"]])


class OnnxRuntime(Engine):
    """ONNX Runtime on the CPU, all graph optimisations; outputs stay in buffers that it allocates itself."""

    def __init__(self, path: Path, options: Mapping[str, Any], threads: int) -> None:
        super().__init__(path, options, threads)
        self._ort = _package("onnxruntime")

    def load(self, inputs: Arrays) -> None:
        chosen = self._ort.SessionOptions()
        chosen.intra_op_num_threads = self.threads
        chosen.inter_op_num_threads = 1
        chosen.execution_mode = self._ort.ExecutionMode.ORT_SEQUENTIAL
        chosen.graph_optimization_level = self._ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        self._session = self._ort.InferenceSession(_readable(self.path), chosen, providers=["CPUExecutionProvider"])

    def prepare(self, inputs: Arrays) -> Callable[[], Any]:
        names = [i.name for i in self._session.get_inputs()]
        _require(inputs, names)
        binding = self._session.io_binding()
        for name in names:
            binding.bind_cpu_input(name, np.ascontiguousarray(inputs[name]))
        for output in self._session.get_outputs():
            binding.bind_output(output.name)
        session = self._session

        def call() -> Any:
            session.run_with_iobinding(binding)
            return binding

        return call

    def outputs(self, result: Any) -> dict[str, np.ndarray]:
        names = [o.name for o in self._session.get_outputs()]
        return dict(zip(names, result.copy_outputs_to_cpu(), strict=True))


def _readable(path: Path) -> str | bytes:
    """The model's path, or its bytes where its file format is newer than those that ONNX Runtime reads.

    What is new in such formats are types of numbers; the graph is written the same way. The version is the first
    thing in the file, which is not parsed for it: a model that is read twice would count as memory that it takes.
    """
    with path.open("rb") as file:
        tag, version = (*file.read(2), 0, 0)[:2]
    if tag != _IR_VERSION_TAG or version <= NEWEST_IR:
        return str(path)
    import onnx

    model = onnx.load(str(path))
    model.ir_version = NEWEST_IR
    return bytes(model.SerializeToString())


class OpenVino(Engine):
    """OpenVINO on the CPU, for latency. Float32 is asked for: it would choose bfloat16 by itself."""

    def __init__(self, path: Path, options: Mapping[str, Any], threads: int) -> None:
        super().__init__(path, options, threads)
        self._openvino = _package("openvino")

    def load(self, inputs: Arrays) -> None:
        core = self._openvino.Core()
        model = core.read_model(str(self.path))
        if model.is_dynamic():
            model.reshape({i.any_name: list(inputs[i.any_name].shape) for i in model.inputs if i.any_name in inputs})
        config = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
            "INFERENCE_NUM_THREADS": str(self.threads),
            "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[self.options.get("precision", "fp32")],
        }
        self._model = core.compile_model(model, "CPU", config | dict(self.options.get("config", {})))

    def prepare(self, inputs: Arrays) -> Callable[[], Any]:
        _require(inputs, [i.any_name for i in self._model.inputs])
        request = self._model.create_infer_request()
        tensors = [self._openvino.Tensor(np.array(inputs[i.any_name], order="C")) for i in self._model.inputs]
        for entry, tensor in zip(self._model.inputs, tensors, strict=True):
            request.set_tensor(entry, tensor)

        def call() -> Any:
            request.start_async()
            request.wait()
            return request

        return call

    def outputs(self, result: Any) -> dict[str, np.ndarray]:
        # Copied: the request owns the memory.
        return {o.any_name: np.array(result.get_tensor(o).data) for o in self._model.outputs}


class Torch(Engine):
    """PyTorch, eager, with a module made by ``options["factory"]``: PyTorch reads no ONNX files."""

    def __init__(self, path: Path, options: Mapping[str, Any], threads: int) -> None:
        super().__init__(path, options, threads)
        self._torch = _package("torch", extra="torch")

    def load(self, inputs: Arrays) -> None:
        if "factory" not in self.options:
            raise CandidateError("PyTorch cannot read ONNX files; give the 'package.module:function' of the module.")
        self._torch.set_num_threads(self.threads)
        self._module = _named(self.options["factory"])().eval()

    def prepare(self, inputs: Arrays) -> Callable[[], Any]:
        torch, module = self._torch, self._module
        args = [torch.from_numpy(np.array(array)) for array in inputs.values()]

        def call() -> Any:
            with torch.inference_mode():
                return module(*args)

        return call

    def outputs(self, result: Any) -> dict[str, np.ndarray]:
        values = result if isinstance(result, (tuple, list)) else [result]
        return {f"output{i}": value.numpy() for i, value in enumerate(values)}


class UntunedTvm(Engine):
    """What ``tvm.compile`` makes of the ONNX file with its default pipeline and no tuning."""

    def __init__(self, path: Path, options: Mapping[str, Any], threads: int) -> None:
        super().__init__(path, options, threads)
        self._tvm = _package("tvm")
        self._onnx = _package("onnx")

    def load(self, inputs: Arrays) -> None:
        from tvm import relax
        from tvm.relax.frontend.onnx import from_onnx

        tvm = self._tvm
        model = self._onnx.load(str(self.path))
        weights = {w.name for w in model.graph.initializer}
        self._inputs = [i.name for i in model.graph.input if i.name not in weights]
        self._outputs = [o.name for o in model.graph.output]
        _require(inputs, self._inputs)
        module = from_onnx(model, shape_dict={name: list(inputs[name].shape) for name in self._inputs})
        cpu = tvm.target.codegen.llvm_get_system_cpu()
        target = tvm.target.Target({"kind": "llvm", "mcpu": cpu, "num-cores": self.threads})
        self._machine = relax.VirtualMachine(tvm.compile(module, target), tvm.cpu())

    def prepare(self, inputs: Arrays) -> Callable[[], Any]:
        _require(inputs, self._inputs)
        main = self._machine["main"]
        args = [self._tvm.runtime.tensor(np.ascontiguousarray(inputs[name])) for name in self._inputs]
        return lambda: main(*args)

    def outputs(self, result: Any) -> dict[str, np.ndarray]:
        return _tvm_outputs(result, self._outputs)


_ENGINES: Mapping[str, type[Engine]] = {
    "artifact": Artifact,
    "onnxruntime": OnnxRuntime,
    "openvino": OpenVino,
    "torch": Torch,
    "tvm": UntunedTvm,
}


def engine(kind: str, path: Path, options: Mapping[str, Any], threads: int) -> Engine:
    """The engine of this kind; a "module:Class" names one that is not in the list.

    Raises:
        CandidateError: there is no such kind, or its package is not installed.
    """
    if ":" in kind:
        made: Engine = _named(kind)(path, options, threads)
        return made
    if kind not in _ENGINES:
        raise CandidateError(f"There is no kind of contestant {kind!r}; known are: {', '.join(_ENGINES)}.")
    return _ENGINES[kind](path, options, threads)


def _package(name: str, extra: str = "bench") -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        message = f"{name} is not installed: pip install fusetune[{extra}]"
        raise CandidateError(message, code="missing-package") from error


def _named(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


def _require(inputs: Arrays, names: Sequence[str]) -> None:
    if missing := [name for name in names if name not in inputs]:
        raise CandidateError(f"Input {missing[0]!r} is missing; given are: {', '.join(inputs) or 'none'}.")


def _tvm_outputs(result: Any, names: Sequence[str]) -> dict[str, np.ndarray]:
    values = [result] if len(names) == 1 and hasattr(result, "numpy") else list(result)
    return {name: value.numpy() for name, value in zip(names, values, strict=True)}
