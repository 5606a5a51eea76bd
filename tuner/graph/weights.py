"""Reading one TensorProto into an array, from the file itself or from external data. Child process only."""

from __future__ import annotations

from math import prod
from pathlib import Path

import numpy as np
from onnx import TensorProto, numpy_helper

from tuner.errors import UserError
from tuner.graph.attrs import DTYPES, numpy_dtype
from tuner.graph.work import Sizes, Type


def read_tensor(tensor: TensorProto, folder: Path | None, sizes: Sizes) -> np.ndarray:
    """The array of ``tensor``. ``folder`` is where external data may lie, None for nowhere.

    Raises UserError naming the tensor when its type is unsupported, it is above the size limit, its data is short, or
    its external data lies outside the folder. The limit is checked before anything is allocated.
    """
    dtype = DTYPES.get(tensor.data_type)
    if dtype is None:
        kind = TensorProto.DataType.Name(tensor.data_type) if tensor.data_type in range(27) else tensor.data_type
        raise UserError(f"Tensor '{tensor.name}' is of type {kind}, which is not supported.", code="unsupported-type")
    shape = tuple(tensor.dims)
    if any(d < 0 for d in shape):
        raise UserError(f"Tensor '{tensor.name}' has a negative dimension: {list(shape)}.", code="invalid-model")
    sizes.check_tensor(tensor.name, Type(dtype, shape))
    size = Type(dtype, shape).bytes
    if tensor.data_location == TensorProto.EXTERNAL:
        return _external(tensor, folder, dtype, shape, size)
    if tensor.HasField("raw_data"):
        raw = tensor.raw_data
        if len(raw) != size:
            raise UserError(
                f"Tensor '{tensor.name}' of shape {list(shape)} needs {size} bytes but holds {len(raw)}.",
                code="invalid-model",
            )
        return np.frombuffer(raw, dtype=numpy_dtype(dtype)).reshape(shape)
    try:
        return np.asarray(numpy_helper.to_array(tensor)).reshape(shape)
    except (ValueError, TypeError) as error:
        raise UserError(
            f"Tensor '{tensor.name}' does not hold the numbers its shape {list(shape)} needs.", code="invalid-model"
        ) from error


def _external(tensor: TensorProto, folder: Path | None, dtype: str, shape: tuple[int, ...], size: int) -> np.ndarray:
    entries = {e.key: e.value for e in tensor.external_data}
    location = entries.get("location", "")
    if folder is None:
        raise UserError(
            f"Tensor '{tensor.name}' keeps its data in another file ('{location}'), which cannot be uploaded.",
            code="external-data",
            hint="Save the model with its weights in one file.",
        )
    root = folder.resolve()
    path = (root / location).resolve() if location and "\0" not in location else root
    if not path.is_relative_to(root) or path == root:
        raise UserError(
            f"The external data of tensor '{tensor.name}' lies outside the model's folder: '{location}'.",
            code="external-data-outside",
        )
    if not path.is_file():
        raise UserError(
            f"The external data file '{location}' of tensor '{tensor.name}' is missing.", code="external-data-missing"
        )
    try:
        offset, length = int(entries.get("offset") or 0), int(entries.get("length") or size)
    except ValueError as error:
        raise UserError(
            f"Tensor '{tensor.name}' has a bad offset or length of its external data.", code="invalid-model"
        ) from error
    if length != size or offset < 0 or offset + size > path.stat().st_size:
        raise UserError(
            f"The external data file '{location}' is too short for tensor '{tensor.name}': "
            f"{size} bytes at {offset} are needed.",
            code="external-data-short",
        )
    try:
        flat = np.fromfile(path, dtype=numpy_dtype(dtype), count=prod(shape), offset=offset)
    except OSError as error:
        raise UserError(
            f"The external data file '{location}' of tensor '{tensor.name}' cannot be read: {error.strerror}.",
            code="external-data-missing",
        ) from error
    return flat.reshape(shape)
