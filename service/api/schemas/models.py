"""Schemas of models."""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict, Field

from service.api.schemas.common import Input, Listed, Name, Output


class UploadQuery(Input):
    """How an uploaded model is to be called."""

    name: Name | None = Field(
        default=None, description="A name for people; by default the graph's own.", examples=["resnet50"]
    )


class EstimateQuery(Input):
    """For which device."""

    device: Name = Field(default="cpu", description="Name or fingerprint of the device.", examples=["cpu"])


class Tensor(Output):
    """An input or output of a model."""

    name: str = Field(description="Its name in the ONNX file.", examples=["data"])
    dtype: str = Field(description="Type of its elements.", examples=["float32"])
    shape: list[int | str | None] = Field(
        description="Its extents; a name or null where the model leaves one open.", examples=[[1, 3, 224, 224]]
    )

    open: bool = Field(
        description="Whether the file leaves extents open: those shown are then guesses, and a job may say others "
        "under 'shapes'.",
        examples=[False],
    )


class Unsupported(Output):
    """A layer that cannot be compiled."""

    layer: str = Field(description="Id of the layer.", examples=["NonMaxSuppression_12"])
    op: str = Field(description="ONNX operator.", examples=["NonMaxSuppression"])
    why: str = Field(description="The reason.", examples=["the operator is not supported"])


class ModelOut(Output):
    """An imported ONNX model."""

    id: str = Field(description="SHA-256 of the file's bytes.", examples=["9f" * 32])
    name: str = Field(description="What it was called when it first came.", examples=["resnet50"])
    layers: int = Field(description="Layers after cleaning.", examples=[71])
    gmacs: float = Field(description="Multiply-accumulates of one run, in units of 10^9.", examples=[4.09])
    bytes: int = Field(description="Size of the file.", examples=[102442450])
    inputs: list[Tensor] = Field(
        description="What it takes.",
        examples=[[{"name": "data", "dtype": "float32", "shape": [1, 3, 224, 224], "open": False}]],
    )
    outputs: list[Tensor] = Field(
        description="What it gives.",
        examples=[[{"name": "logits", "dtype": "float32", "shape": [1, 1000], "open": False}]],
    )
    parameters: int | None = Field(description="Numbers in its weights, where known.", examples=[25557032])
    ops: dict[str, int] | None = Field(description="Layers by operator.", examples=[{"Conv": 53, "MaxPool": 1}])
    unsupported: list[Unsupported] | None = Field(
        description="Layers that cannot be compiled; a job on such a model is refused or fails.", examples=[[]]
    )
    blocks: int | None = Field(description="Fused blocks of the default plan.", examples=[54])
    file: bool = Field(description="Whether the file is stored; jobs need it.", examples=[True])
    created_at: str = Field(description="When it first came, UTC.", examples=["2026-03-01T12:00:00.000Z"])
    links: dict[str, str] = Field(
        description="Addresses of what belongs to it.", examples=[{"self": f"/api/v1/models/{'9f' * 32}"}]
    )


class ModelPage(Listed[ModelOut]):
    """One page of models."""


class GraphOut(Output):
    """A model after cleaning, as fusetune sees it."""

    model_config = ConfigDict(extra="allow")

    layers: list[dict[str, Any]] = Field(
        description="Layers in topological order, with ids, operators, attributes and tensors.", examples=[[]]
    )


class Estimate(Output):
    """How long a job would take."""

    questions: int = Field(description="Different kernels that the model needs on this device.", examples=[53])
    known: int = Field(description="How many of them have been tuned already.", examples=[38])
    seconds: float | None = Field(description="About how long the rest takes to tune well.", examples=[240.0])
