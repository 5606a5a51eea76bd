"""Pieces that several schemas share: checked texts and numbers, problem documents, pages."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

T = TypeVar("T")

INT_MAX = 2**63 - 1  # what both databases can hold
SEQ_MAX = 2**31 - 1  # of the number of an event
NO_NUL = r"^[^\x00]*$"  # PostgreSQL stores no NUL characters

Name = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=NO_NUL)]
Word = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9._-]{0,63}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


def _written(value: object) -> object:
    # pydantic would take bare numbers for seconds since 1970, which nobody means here.
    if not isinstance(value, str) or re.match(r"\d{4}-\d\d-\d\d", value, re.ASCII) is None:
        raise ValueError("Input should be a date and time such as 2026-03-01T12:00:00Z")
    return value


def _within_the_calendar(value: datetime) -> datetime:
    if not 1970 <= value.year <= 9000:
        raise ValueError("The year must be between 1970 and 9000")
    return value.astimezone(UTC)


Moment = Annotated[AwareDatetime, BeforeValidator(_written), AfterValidator(_within_the_calendar)]


class Input(BaseModel):
    """Something a client sends: unknown fields are errors, not ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Output(BaseModel):
    """Something a client receives."""

    model_config = ConfigDict(extra="forbid")


class FieldError(Output):
    """One value that is not allowed."""

    where: str = Field(
        description="Where it stands: body, query, path or header, then the field.", examples=["body.budget.trials"]
    )
    message: str = Field(description="What is wrong with it.", examples=["Input should be greater than or equal to 0"])


class Problem(BaseModel):
    """An error, as RFC 9457 describes it. Every answer with a status from 400 up is one."""

    type: str = Field(description="Address that stands for the kind of error.", examples=["/problems/unknown-job"])
    title: str = Field(description="The kind of error in words.", examples=["There is no such job"])
    status: int = Field(ge=400, le=599, description="The HTTP status.", examples=[404])
    detail: str = Field(description="What is wrong this time.", examples=["There is no job '5f2c9a1b7d3e4f60'."])
    code: str = Field(description="Stable name of the kind of error, for programs.", examples=["unknown-job"])
    fault: Literal["user", "candidate", "service"] = Field(
        description="Whose fault it is: the request's, a candidate's (a kernel that failed), or the service's.",
        examples=["user"],
    )
    stage: str | None = Field(
        default=None, description="The stage of a job that the error belongs to, if any.", examples=["import"]
    )
    hint: str | None = Field(
        default=None, description="What to do about it.", examples=["Upload it with POST /api/v1/models."]
    )
    instance: str = Field(
        description="This occurrence; its id is also in the header X-Request-Id and in the server's log.",
        examples=["urn:uuid:0b1d5c38-6c3c-4a52-9df5-0c6e5a8f3a1e"],
    )
    errors: list[FieldError] | None = Field(
        default=None,
        description="Every value that is not allowed, if the request did not fit its schema.",
        examples=[[{"where": "body.budget.trials", "message": "Input should be greater than or equal to 0"}]],
    )
    checks: dict[str, Any] | None = Field(
        default=None, description="For /readyz: what was checked.", examples=[{"database": {"ok": False}}]
    )


class Cursor(Input):
    """Which page of a list."""

    limit: int = Field(default=50, ge=1, le=200, description="How many items a page has at most.", examples=[50])
    cursor: str | None = Field(
        default=None, max_length=2000, pattern=NO_NUL,
        description="'next' of the page before; with the same order and filters.",
        examples=["WyItY3JlYXRlZF9hdCIsICIyMDI2Il0"],
    )  # fmt: skip


class Listed(Output, Generic[T]):
    """One page of a list."""

    items: list[T] = Field(description="The items, in the order asked for.", examples=[[]])
    next: str | None = Field(
        description="Cursor of the next page; null at the end.", examples=["WyItY3JlYXRlZF9hdCIsICIyMDI2Il0"]
    )


class DeviceRef(Output):
    """Which device."""

    name: str = Field(description="What users call it.", examples=["cpu"])
    fingerprint: str = Field(description="Identifies the hardware.", examples=["3f6c1a9be2d04875"])
