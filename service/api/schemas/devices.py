"""Schemas of devices, records, and what the service says about itself."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from service.api.schemas.common import Cursor, DeviceRef, Listed, Name, Output, Word


class Turn(Output):
    """What a device measures at the moment."""

    job: str = Field(description="The job whose candidates are measured.", examples=["5f2c9a1b7d3e4f60"])
    what: str | None = Field(description="In plain words.", examples=["conv 3x3 256->256 14x14 on 2 cores"])
    taken_at: str = Field(description="Since when, UTC.", examples=["2026-03-01T12:00:00.000Z"])


class DeviceHealth(Output):
    """What a device's calibration kernel said when it was last timed."""

    drifting_since: str | None = Field(
        description="Since when it is slower than usual, UTC; null if it is not.", examples=[None]
    )
    drift: float = Field(description="What the kernel took lately over what it usually takes.", examples=[1.02])
    calibration_us: float | None = Field(
        description="What it usually takes, in microseconds; null until it was timed often enough.", examples=[14.3]
    )
    checked_at: str = Field(description="When it was timed last, UTC.", examples=["2026-03-01T12:00:00.000Z"])


class DeviceOut(Output):
    """A thing that measures, one candidate at a time."""

    name: str = Field(description="What users call it.", examples=["cpu"])
    fingerprint: str = Field(description="Identifies the hardware.", examples=["3f6c1a9be2d04875"])
    kind: str = Field(description="What it is.", examples=["cpu"])
    model: str = Field(description="The processor, as the machine names it.", examples=["AMD EPYC 9B14"])
    mcpu: str = Field(description="LLVM's name of the processor.", examples=["znver4"])
    features: list[str] = Field(description="Instruction sets that decide code generation.", examples=[["avx2"]])
    cores: int = Field(description="Physical cores that may be used.", examples=[12])
    lanes: int = Field(description="float32 numbers in a vector register.", examples=[16])
    registers: int = Field(description="Vector registers.", examples=[32])
    l1: int = Field(description="Bytes of data cache of one core.", examples=[32768])
    l2: int = Field(description="Bytes of second-level cache of one core.", examples=[1048576])
    l3: int = Field(description="Bytes of the shared last-level cache.", examples=[33554432])
    memory: int = Field(description="Bytes of memory that may be used.", examples=[17179869184])
    simulated: bool = Field(description="Whether it is a simulation.", examples=[False])
    available: bool = Field(description="Whether a running server drives it now.", examples=[True])
    turn: Turn | None = Field(description="What it measures now; null if nothing.", examples=[None])
    running: int = Field(description="Jobs that run on it.", examples=[1])
    queued: int = Field(description="Jobs that wait for it.", examples=[3])
    peak_gflops: float | None = Field(description="Measured peak, 10^9 operations per second.", examples=[410.0])
    bandwidth_gbs: float | None = Field(description="Measured bandwidth, 10^9 bytes per second.", examples=[38.0])
    records: int = Field(description="Questions for which a tuned kernel is stored.", examples=[219])
    health: DeviceHealth | None = Field(description="Null if its calibration kernel was never timed.", examples=[None])
    first_seen_at: str = Field(description="UTC.", examples=["2026-03-01T12:00:00.000Z"])
    last_seen_at: str = Field(description="UTC.", examples=["2026-03-01T12:00:00.000Z"])


class Devices(Output):
    """All devices."""

    items: list[DeviceOut] = Field(description="Those seen last first.", examples=[[]])
    next: str | None = Field(default=None, description="Always null: they are few.", examples=[None])


class RecordQuery(Cursor):
    """Which records."""

    workload: Word | None = Field(default=None, description="Hash of a workload, or its beginning.", examples=["ab12"])
    device: Name | None = Field(default=None, description="Name or fingerprint of a device.", examples=["cpu"])
    precision: Word | None = Field(default=None, description="Precision of the computation.", examples=["fp32"])


class RecordOut(Output):
    """The best verified kernel for one question on one device, toolchain and way of measuring."""

    workload: str = Field(description="Hash of the computation.", examples=["ab" * 32])
    summary: str = Field(description="The computation in a few words.", examples=["conv 3x3 256->256 14x14"])
    record_key: str = Field(description="Identity of the question.", examples=["cd" * 32])
    canonical: dict[str, Any] = Field(description="The computation itself, in canonical form.", examples=[{}])
    layouts: dict[str, str] = Field(description="Layout of each input and output.", examples=[{"i0": "NCHW16c"}])
    template: str = Field(description="Kernel template.", examples=["conv2d_direct"])
    template_version: int = Field(description="Version of the template.", examples=[3])
    knobs: dict[str, int] = Field(description="The best parameters.", examples=[{"ob": 32, "reg_n": 7}])
    cores: int = Field(description="Cores it runs on.", examples=[2])
    precision: str = Field(description="Precision of the computation.", examples=["fp32"])
    residency: str = Field(description="Where its weights come from: dram or cache.", examples=["dram"])
    seconds: float = Field(description="Median time per call.", examples=[0.00031])
    samples: int = Field(description="How many samples stand behind it.", examples=[60])
    device: DeviceRef = Field(
        description="The device it holds for.", examples=[{"name": "cpu", "fingerprint": "3f6c1a9be2d04875"}]
    )
    toolchain: str = Field(description="Versions that its time depends on.", examples=["tvm 0.27.0"])
    protocol: str = Field(description="Version of the way of measuring.", examples=["1"])
    trial: int = Field(description="The trial that found it.", examples=[4711])
    job: str | None = Field(description="That trial's job; null once it is deleted.", examples=["5f2c9a1b7d3e4f60"])
    found_at: str = Field(description="When, UTC.", examples=["2026-03-01T12:00:00.000Z"])


class RecordPage(Listed[RecordOut]):
    """One page of records."""


class Health(Output):
    """The server answers."""

    status: str = Field(description="Always 'ok'.", examples=["ok"])


class Check(Output):
    """One thing that the server needs."""

    ok: bool = Field(description="Whether it works.", examples=[True])
    detail: str | None = Field(description="What is wrong, if anything.", examples=[None])


class Ready(Output):
    """The server can do its work."""

    status: str = Field(description="Always 'ok'; otherwise the answer is a problem with status 503.", examples=["ok"])
    checks: dict[str, Check] = Field(
        description="What was checked: database, storage, dispatcher.",
        examples=[{"database": {"ok": True, "detail": None}}],
    )


class ProblemKind(Output):
    """One kind of error."""

    code: str = Field(description="Stable name.", examples=["unknown-job"])
    status: int = Field(description="The HTTP status it comes with.", examples=[404])
    title: str = Field(description="The kind of error in words.", examples=["There is no such job"])
    fault: str = Field(description="Whose fault it is: user, candidate or service.", examples=["user"])
    stage: str | None = Field(description="The stage of a job that it belongs to, if any.", examples=[None])
    hint: str | None = Field(description="What to do about it.", examples=[None])
