"""Path and header parameters that several routes share, as annotated names."""

from __future__ import annotations

from typing import Annotated

from fastapi import Header, Path

from service.api.schemas.common import INT_MAX, NO_NUL, SEQ_MAX

JobId = Annotated[str, Path(pattern=r"^[0-9a-f]{1,32}$", description="Id of a job.", examples=["5f2c9a1b7d3e4f60"])]
ModelId = Annotated[
    str, Path(pattern=r"^[0-9a-f]{64}$", description="Id of a model: the SHA-256 of its file.", examples=["9f" * 32])
]
TrialId = Annotated[int, Path(ge=1, le=INT_MAX, description="Id of a trial.", examples=[4711])]
DeviceId = Annotated[
    str, Path(max_length=200, pattern=NO_NUL, description="Name or fingerprint of a device.", examples=["cpu"])
]
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key", min_length=1, max_length=200, pattern=r"^[\x21-\x7e]+$",
        description="Any text of your choice. The same request with the same key is carried out once, however often it "
        "is sent; another request with the key is refused.",
        examples=["0c4f7f0e-5d3f-4c8e-8b0a-8e1e3a6a7b11"],
    ),
]  # fmt: skip
LastEventId = Annotated[
    int | None,
    Header(
        alias="Last-Event-ID", ge=0, le=SEQ_MAX,
        description="Number of the last event received: the stream goes on after it. Wins over 'after'.",
        examples=[41],
    ),
]  # fmt: skip
