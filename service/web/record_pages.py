"""The pages of records: search for the best known kernels, and one of them with how it was found."""

from __future__ import annotations

import re

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from db.trials import StoredTrial
from service.web.pages import device_choices
from service.web.render import Web
from tuner.errors import UserError
from tuner.types import PROTOCOL, Candidate, Trial

PAGE = 50  # records
TRIED = 12  # candidates shown beside the best
_LONGEST = 200  # characters of a filter
_HASH = re.compile("[0-9a-f]{6,64}")
_LARGEST = 2**63 - 1


def router(web: Web) -> APIRouter:
    """Routes of /records and /records/{trial}: a record is named by the trial that found it."""
    routes = APIRouter(include_in_schema=False)

    @routes.get("/records")
    def records(
        request: Request, q: str = "", device: str = "", template: str = "", cursor: str = ""
    ) -> HTMLResponse:  # fmt: skip
        q, device, template = (text.strip()[:_LONGEST] for text in (q, device, template))
        # A workload's hash, or words of its summary; "decade" is both, and then a hash has to exist.
        hashed = _HASH.fullmatch(q.lower()) is not None
        page = web.store.records.search(
            workload_hash=q.lower() if hashed else None,
            words=q if q and not hashed else None,
            device=device or None,
            template=template or None,
            limit=PAGE,
            cursor=cursor or None,
        )
        filters = {"q": q, "device": device, "template": template}
        return web.page(
            request,
            "records.html",
            records=page.items,
            filters=filters,
            active=any(filters.values()),
            devices=device_choices(web),
            total=sum(status.records for status in web.devices.list()),
            next_href=web.url("/records", **filters, cursor=page.next) if page.next else None,
            first_href=web.url("/records", **filters) if cursor else None,
        )

    @routes.get("/records/{trial}")
    def record(request: Request, trial: str) -> HTMLResponse:
        stored = _stored(web, trial)
        candidate = stored.trial.candidate
        place = {"device": stored.device, "toolchain": stored.toolchain}
        same = web.store.records.search(workload_hash=candidate.workload_hash, limit=PAGE).items
        best = next((each for each in same if each.trial == stored.id), None)
        tried = web.store.trials.of_records([candidate.record_key], **place, protocol=stored.protocol)
        return web.page(
            request,
            "record.html",
            stored=stored,
            candidate=candidate,
            best=best,
            summary=next((each.summary for each in same if each.summary), ""),
            device=web.store.devices.get(stored.device),
            job=web.store.jobs.get(stored.job) if stored.job else None,
            others=[each for each in same if each.trial != stored.id],
            tried=_ranking(tried),
            count=len(tried),
            failed=sum(each.failure is not None for each in tried),
            current=stored.protocol == PROTOCOL,
        )

    return routes


def _stored(web: Web, number: str) -> StoredTrial:
    stored = None
    if number.isascii() and number.isdecimal() and int(number[:20]) <= _LARGEST:
        stored = web.store.trials.get(int(number))
    if stored is None:
        raise UserError(f"There is no trial '{number[:40]}'.", code="unknown-trial")
    return stored


def _ranking(tried: list[Trial]) -> list[tuple[Candidate, float]]:
    """Candidates with their fastest trial's median seconds, the fastest first."""
    found: dict[str, tuple[Candidate, float]] = {}
    for trial in tried:
        if trial.seconds is not None:
            known = found.get(trial.candidate.key)
            if known is None or trial.seconds < known[1]:
                found[trial.candidate.key] = (trial.candidate, trial.seconds)
    return sorted(found.values(), key=lambda pair: pair[1])[:TRIED]
