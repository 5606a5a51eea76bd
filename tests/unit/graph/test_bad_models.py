"""Everything that can be wrong with a model is one clear UserError."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from graph_models import SIZES, cleaned, model, node, ops, rand
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper

from tuner.errors import UserError
from tuner.graph.clean import clean
from tuner.graph.load import Limits, import_model


def small(opset: int = 17) -> ModelProto:
    return model(
        [node("Conv", ["x", "w"], "c"), node("Relu", ["c"], "r"), node("Flatten", ["r"], "y")],
        {"x": [1, 3, 8, 8]},
        ["y"],
        {"w": rand(4, 3, 3, 3)},
        opset=opset,
    )


def refusal(source: ModelProto | bytes, **shapes: tuple[int, ...]) -> UserError:
    data = source if isinstance(source, bytes) else source.SerializeToString()
    with pytest.raises(UserError) as caught:
        clean(data, None, shapes, (), SIZES)
    assert caught.value.message.endswith(".")
    return caught.value


def test_empty_and_foreign_files() -> None:
    assert refusal(b"").code == "empty-model"
    for data in (b"Hello, this is a text.\n" * 20, b"\x89PNG\r\n\x1a\n" + bytes(100), b"PK\x03\x04" + bytes(64), b"\0"):
        assert refusal(data).code == "not-onnx", data[:8]
    no_nodes = small()
    del no_nodes.graph.node[:]
    assert refusal(no_nodes).code == "empty-model"


def test_truncated_file() -> None:
    data = small().SerializeToString()
    for end in (1, len(data) // 2, len(data) - 1):
        assert refusal(data[:end]).code in ("truncated-model", "not-onnx")
    assert refusal(data[: len(data) // 2]).code == "truncated-model"


def test_unreadable_paths(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.onnx", tmp_path, Path("a\0b")):
        with pytest.raises(UserError) as caught:
            import_model(path)
        assert caught.value.code == "model-unreadable"
    closed = tmp_path / "closed.onnx"
    closed.write_bytes(small().SerializeToString())
    closed.chmod(0)
    if os.geteuid() != 0:
        with pytest.raises(UserError, match="cannot be read: Permission denied"):
            import_model(closed)


@pytest.mark.parametrize(("domain", "named"), [("", "'FancyOp' of domain 'ai.onnx'"), ("acme", "of domain 'acme'")])
def test_unknown_operator_is_named_with_node_and_domain(domain: str, named: str) -> None:
    proto = model([node("FancyOp", ["x"], "y", domain=domain, name="n7")], {"x": [1]}, ["y"])
    proto.opset_import.append(helper.make_opsetid("acme", 1))
    error = refusal(proto)
    assert error.code == "unknown-operator"
    assert named in error.message
    assert "'n7'" in error.message
    assert "com.microsoft" in error.hint
    # Gelu came with opset 20.
    assert refusal(model([node("Gelu", ["x"], "y")], {"x": [1]}, ["y"])).code == "unknown-operator"
    proto = model([node("NotThere", ["x"], "y", domain="com.microsoft")], {"x": [1]}, ["y"])
    assert refusal(proto).code == "unknown-operator"


@pytest.mark.parametrize(("opset", "code"), [(6, "opset-too-old"), (27, "opset-too-new")])
def test_opset_outside_the_supported_range(opset: int, code: str) -> None:
    error = refusal(small(opset))
    assert error.code == code
    assert str(opset) in error.message
    assert "7 to 26" in error.hint


def symbolic() -> ModelProto:
    nodes = [node("Add", ["image", "mask"], "y")]
    return model(nodes, {"image": ["N", 3, None, 8], "mask": ["N", 3, 1, 1]}, ["y"])


def test_symbolic_shapes() -> None:
    error = refusal(symbolic())
    assert error.code == "missing-shape"
    assert "--shape image=1,3,224,8" in error.hint
    assert "[N, 3, ?, 8]" in error.message
    graph, _ = cleaned(symbolic(), shapes={"image": (2, 3, 5, 8)})  # N holds for both inputs
    assert graph.tensors["mask"].shape == (2, 3, 1, 1)
    assert graph.tensors["y"].shape == (2, 3, 5, 8)


def test_contradictory_and_unknown_shapes() -> None:
    error = refusal(symbolic(), image=(2, 4, 5, 8))
    assert error.code == "shape-contradiction"
    assert "'image'" in error.message
    assert refusal(symbolic(), image=(2, 3, 5)).code == "shape-contradiction"
    assert refusal(symbolic(), image=(2, 3, 5, 8), mask=(1, 3, 1, 1)).code == "shape-contradiction"
    assert refusal(symbolic(), image=(0, 3, 5, 8)).code == "shape-contradiction"
    error = refusal(symbolic(), picture=(1, 3, 8, 8))
    assert error.code == "unknown-input"
    assert "image, mask" in error.hint


def test_batch_alone_symbolic_must_be_given() -> None:
    proto = model([node("Relu", ["x"], "y")], {"x": ["N", 3, 4, 4]}, ["y"])
    assert "--shape x=1,3,4,4" in refusal(proto).hint


def test_data_dependent_shape_names_the_node() -> None:
    proto = model([node("NonZero", ["x"], "i", name="where")], {"x": [3, 4]}, ["i"])
    error = refusal(proto)
    assert error.code == "dynamic-shape"
    assert "'where' (NonZero)" in error.message


def test_invalid_graphs() -> None:
    cycle = model([node("Add", ["x", "b"], "a"), node("Relu", ["a"], "b")], {"x": [2]}, ["b"])
    assert "cycle" in refusal(cycle).message
    undefined = model([node("Add", ["x", "ghost"], "y")], {"x": [2]}, ["y"])
    assert "'ghost'" in refusal(undefined).message
    twice = model([node("Relu", ["x"], "y"), node("Exp", ["x"], "y")], {"x": [2]}, ["y"])
    assert "more than once" in refusal(twice).message
    unwritten = model([node("Relu", ["x"], "y")], {"x": [2]}, ["z"])
    assert "'z'" in refusal(unwritten).message
    attribute = model([node("Relu", ["x"], "y", colour=3)], {"x": [2]}, ["y"])
    assert "colour" in refusal(attribute).message
    misfit = model([node("MatMul", ["x", "w"], "y", name="mm")], {"x": [2, 3]}, ["y"], {"w": rand(4, 5)})
    assert "'mm' (MatMul)" in refusal(misfit).message
    no_opset = small()
    del no_opset.opset_import[:]
    for proto in (cycle, undefined, twice, unwritten, attribute, misfit, no_opset):
        assert refusal(proto).code == "invalid-model"


def test_types_that_do_not_fit_an_operator_are_refused() -> None:
    proto = model([node("Add", ["x", "c"], "y", name="sum")], {"x": [2]}, ["y"], {"c": [1, 2]})
    assert "sum" in refusal(proto).message


def test_unsorted_nodes_are_accepted() -> None:
    proto = model([node("Relu", ["a"], "y"), node("Exp", ["x"], "a")], {"x": [2]}, ["y"])
    assert [layer.op for layer in cleaned(proto)[0].layers] == ["Exp", "Relu"]


@pytest.mark.parametrize(
    "nodes",
    [
        [node("ConstantOfShape", ["huge"], "c"), node("Add", ["x", "c"], "y")],
        [node("Expand", ["x", "huge"], "y")],
        [node("Tile", ["x", "huge"], "y")],
        [node("ConstantOfShape", ["huge"], "c"), node("ReduceSum", ["c"], "s"), node("Add", ["x", "s"], "y")],
    ],
)
def test_shape_bombs_are_refused_by_name(nodes: list[onnx.NodeProto]) -> None:
    error = refusal(model(nodes, {"x": [1, 1]}, ["y"], {"huge": [1 << 20, 1 << 20]}))
    assert error.code == "tensor-too-large"
    assert "'c'" in error.message or "'y'" in error.message


def test_range_bomb_and_many_constants_together() -> None:
    proto = model([node("Range", ["a", "b", "c"], "r"), node("Cast", ["r"], "f", to=1), node("Add", ["x", "f"], "y")],
                  {"x": [1]}, ["y"], {"a": 0, "b": 1 << 40, "c": 1})  # fmt: skip
    assert refusal(proto).code == "tensor-too-large"
    many = [node("ConstantOfShape", ["big"], f"c{i}") for i in range(6)]
    proto = model([*many, node("Sum", ["x", *(f"c{i}" for i in range(6))], "y")], {"x": [1]}, ["y"], {"big": [1 << 23]})
    error = refusal(proto)  # 32 MiB each, 64 MiB allowed, 128 MiB in all
    assert error.code == "tensor-too-large"
    assert "constants" in error.message


def test_initializers_with_wrong_or_huge_dimensions() -> None:
    for dims, code in (
        ([1 << 30, 1 << 30], "tensor-too-large"),
        ([4, 3, 3, 4], "invalid-model"),
        ([-4], "invalid-model"),
    ):
        proto = small()
        del proto.graph.initializer[0].dims[:]
        proto.graph.initializer[0].dims.extend(dims)
        error = refusal(proto)
        assert error.code == code
        assert "'w'" in error.message


def test_unsupported_types() -> None:
    proto = model([node("Identity", ["x"], "y")], {"x": [2]}, ["y"], dtype=TensorProto.STRING)
    assert refusal(proto).code == "unsupported-type"
    proto = model([node("SequenceConstruct", ["x"], "s", name="list")], {"x": [2]}, ["s"])
    assert "'list'" in refusal(proto).message
    proto = small()
    proto.graph.initializer[0].data_type = TensorProto.INT4
    assert refusal(proto).code == "unsupported-type"


def external(folder: Path, location: str, *, length: int | None = None) -> Path:
    """A model whose weight lies in another file; weights.bin with the right bytes is there."""
    proto = small()
    weight = proto.graph.initializer[0]
    raw = weight.raw_data
    (folder / "weights.bin").write_bytes(bytes(16) + raw)
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": "16", "length": str(length or len(raw))}.items():
        weight.external_data.add(key=key, value=value)
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def test_external_data_in_the_models_folder(tmp_path: Path) -> None:
    found = import_model(external(tmp_path, "weights.bin"))
    np.testing.assert_array_equal(found.weights["w"], rand(4, 3, 3, 3))
    assert found.name == "model" and found.beside == ("weights.bin",)
    for refused in (
        lambda: import_model((tmp_path / "model.onnx").read_bytes()),
        lambda: import_model(tmp_path / "model.onnx", external=False),
    ):
        with pytest.raises(UserError) as caught:
            refused()
        assert caught.value.code == "external-data"


@pytest.mark.parametrize("location", ["../weights.bin", "ABSOLUTE", "link.bin", "sub/../../weights.bin"])
def test_external_data_outside_the_models_folder_is_refused(tmp_path: Path, location: str) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    external(tmp_path, "weights.bin")
    (inside / "link.bin").symlink_to(tmp_path / "weights.bin")
    location = str(tmp_path / "weights.bin") if location == "ABSOLUTE" else location
    with pytest.raises(UserError) as caught:
        import_model(external(inside, location))
    assert caught.value.code == "external-data-outside"


def test_external_data_missing_or_short(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        import_model(external(tmp_path, "absent.bin"))
    assert caught.value.code == "external-data-missing"
    path = external(tmp_path, "weights.bin")
    (tmp_path / "weights.bin").write_bytes(bytes(20))
    with pytest.raises(UserError) as caught:
        import_model(path)
    assert caught.value.code == "external-data-short"
    with pytest.raises(UserError):
        import_model(external(tmp_path, "weights.bin", length=8))


def test_file_size_time_and_memory_limits() -> None:
    data = small().SerializeToString()
    with pytest.raises(UserError) as caught:
        import_model(data, limits=Limits(file=10))
    assert caught.value.code == "model-too-large"
    with pytest.raises(UserError) as caught:
        import_model(data, limits=Limits(seconds=0.01))
    assert caught.value.code == "import-timeout"
    big = model(
        [node("ConstantOfShape", ["n"], "c"), node("Add", ["x", "c"], "y")], {"x": [1]}, ["y"], {"n": [1 << 28]}
    )
    with pytest.raises(UserError) as caught:
        import_model(big.SerializeToString(), limits=Limits(memory=400 << 20))
    assert caught.value.code == "model-memory"


def test_unknown_pass() -> None:
    with pytest.raises(UserError, match="no cleaning pass"):
        import_model(small().SerializeToString(), disabled=["fold"])


def branch(name: str, op: str) -> onnx.GraphProto:
    return helper.make_graph(
        [node(op, ["x"], f"{name}_out")], name, [], [helper.make_tensor_value_info(f"{name}_out", 1, None)]
    )


def test_if_with_constant_condition_is_inlined_and_others_refused() -> None:
    choose = node("If", ["flag"], "y", then_branch=branch("a", "Relu"), else_branch=branch("b", "Exp"), name="if")
    for flag, op in ((True, "Relu"), (False, "Exp")):
        graph, _ = cleaned(model([choose], {"x": [2]}, ["y"], {"flag": np.array(flag)}))
        assert ops(graph) == {op: 1}
    proto = model(
        [node("ReduceMax", ["x"], "m", keepdims=0), node("Cast", ["m"], "flag", to=9), choose], {"x": [2]}, ["y"]
    )
    error = refusal(proto)
    assert error.code == "control-flow"
    assert "'if' (If)" in error.message


def loop(trips: str) -> ModelProto:
    body = helper.make_graph(
        [node("Add", ["h", "x"], "h_out"), node("Identity", ["going"], "going_out")],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("h", TensorProto.FLOAT, [2]),
        ],
        [
            helper.make_tensor_value_info("going_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("h_out", TensorProto.FLOAT, [2]),
        ],
    )
    nodes = [node("ReduceMax", ["x"], "m", keepdims=0), node("Cast", ["m"], "data", to=7)]
    return model([*nodes, node("Loop", [trips, "", "x"], "y", body=body, name="loop")], {"x": [2]}, ["y"], {"three": 3})


def test_loop_of_known_length_is_unrolled_and_others_refused() -> None:
    graph, _ = cleaned(loop("three"))
    assert ops(graph) == {"Add": 3}
    error = refusal(loop("data"))
    assert error.code == "control-flow"
    assert "'loop' (Loop)" in error.message


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(st.data())
def test_corrupted_bytes_give_a_user_error_or_a_model(data: st.DataObject) -> None:
    raw = bytearray(_FUZZ)
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.one_of(st.none(), st.integers(0, len(raw))))
    try:
        clean(bytes(raw[:cut]), None, {}, (), SIZES)
    except UserError as error:
        assert error.code


_FUZZ = small().SerializeToString()


def test_child_survives_corruption_of_a_real_import() -> None:
    raw = bytearray(_FUZZ)
    rng = np.random.default_rng(0)
    for _ in range(6):
        at = int(rng.integers(len(raw)))
        broken = raw[:at] + bytes([int(rng.integers(256))]) + raw[at + 1 :]
        try:
            import_model(bytes(broken), limits=Limits(seconds=20))
        except UserError as error:
            assert error.code


def test_initialised_inputs_are_not_inputs_and_unused_ones_stay() -> None:
    proto = small()
    proto.graph.input.append(helper.make_tensor_value_info("w", 1, [4, 3, 3, 3]))
    proto.graph.input.append(helper.make_tensor_value_info("dummy", 7, [2]))
    proto.graph.input.append(helper.make_tensor_value_info("OC2_DUMMY_1", 7, [2]))
    proto.graph.initializer.append(numpy_helper.from_array(np.array([1, 2]), "OC2_DUMMY_1"))
    graph, _ = cleaned(proto)
    assert graph.inputs == ("x", "dummy")
    assert set(graph.constants) == {"w"}
