"""upgrade-opset: older models are raised to opset 17, so that later stages meet one meaning per operator."""

from __future__ import annotations

from dataclasses import replace

import onnx
from onnx import ModelProto, helper, version_converter

from tuner.errors import UserError
from tuner.graph.attrs import ELEM_TYPES
from tuner.graph.infer import infer
from tuner.graph.parse import Parsed, to_work
from tuner.graph.work import Work

TARGET = 17


def upgrade_opset(parsed: Parsed, work: Work) -> Work:
    """A Work of opset TARGET that does what ``work``, made from ``parsed``, does; ``work`` itself where there is none.

    The upgrade is kept only when the result is valid and its outputs have the same types as before.
    """
    if parsed.opset >= TARGET or any(node.domain for node in work.nodes):
        return work
    for output in parsed.proto.graph.output:
        kind = work.type_of(output.name)
        output.type.CopyFrom(helper.make_tensor_type_proto(ELEM_TYPES[kind.dtype], kind.shape))
    converted = _convert(parsed.proto)
    if converted is None:
        return work
    try:
        newer = to_work(replace(parsed, proto=converted, opset=TARGET), work.sizes)
        infer(newer)
    except UserError:
        return work
    if [newer.type_of(name) for name in newer.outputs] != [work.type_of(name) for name in work.outputs]:
        return work
    return newer


def _convert(proto: ModelProto) -> ModelProto | None:
    try:
        converted = version_converter.convert_version(proto, TARGET)
        onnx.checker.check_model(converted)
    except (version_converter.ConvertError, onnx.checker.ValidationError, RuntimeError, ValueError):
        return None
    names = [o.name for o in proto.graph.output]
    return converted if [o.name for o in converted.graph.output] == names else None
