"""Routes of devices and records."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from service.api import views
from service.api.context import Ctx
from service.api.jsonio import answer
from service.api.openapi import ALWAYS, responses
from service.api.parameters import DeviceId
from service.api.schemas.devices import DeviceOut, Devices, RecordPage, RecordQuery

router = APIRouter()


@router.get("/devices", tags=["devices"], response_model=Devices, summary="List devices", responses=responses(*ALWAYS))
def list_devices(context: Ctx) -> Response:
    """Everything that ever measured for this database: what it is, what it does now, what waits for it."""
    return answer({"items": [views.device(each) for each in context.devices.list()], "next": None})


@router.get("/devices/{name}", tags=["devices"], response_model=DeviceOut, summary="One device",
            responses=responses(*ALWAYS, "unknown-device"))  # fmt: skip
def get_device(context: Ctx, name: DeviceId) -> Response:
    """By name or fingerprint; of several with one name, the one that is driven now."""
    return answer(views.device(context.devices.get(name)))


@router.get("/records", tags=["records"], response_model=RecordPage, summary="Search records",
            responses=responses(*ALWAYS, "bad-cursor"))  # fmt: skip
def list_records(context: Ctx, query: Annotated[RecordQuery, Query()]) -> Response:
    """The best verified kernels, those measured last first. A record holds for one device, toolchain and way of
    measuring only."""
    page = context.store.records.search(
        workload_hash=query.workload, device=query.device, precision=query.precision, limit=query.limit,
        cursor=query.cursor,
    )  # fmt: skip
    return answer({"items": [views.record(each) for each in page.items], "next": page.next})
