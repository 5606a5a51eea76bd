"""A driver and the file of its model, which somebody sent."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from dispatch_tools import ended, house, tiny_model

from tuner.types import JobState

pytestmark = pytest.mark.alone


def test_weights_in_another_file_are_not_looked_for(tmp_path: Path) -> None:
    """Not even by a driver whose model came into the store before uploads were checked; whatever the model's name."""
    proto = onnx.load_from_string(tiny_model())
    weight = proto.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="stderr")  # there is such a file in a driver's folder
    with house(f"sqlite:///{tmp_path}/fusetune.db", tmp_path / "data") as server:
        blob = server.blobs.put([proto.SerializeToString()])
        server.store.models.put(
            blob.sha256, name="模" * 120, layers=1, macs=1, size=blob.size, inputs=[], outputs=[], details={},
            graph=None,
        )  # fmt: skip
        job = server.wait(server.submit(blob.sha256), ended)
    assert job.state is JobState.FAILED
    assert job.reason is not None
    assert "keeps its data in another file ('stderr')" in job.reason
