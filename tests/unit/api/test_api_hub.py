"""The hub of live events: nothing is missed, nothing comes twice, nobody holds up the others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import pytest

from db.events import Event
from db.store import Store
from service.api import hub as hubs
from service.api.hub import BACKLOG, PAGE, Dropped, Hub
from service.api.metrics import Metrics
from tests.api_server import Service
from tuner.errors import InternalError, UserError
from tuner.types import JobState

RUNNING = {"state": "RUNNING", "reason": None}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hubs, "TICK", 0.01)


def encode(event: Event) -> bytes:
    return b"%d " % event.seq


def made(store: Store) -> Hub:
    return Hub(store.events, encode, Metrics())


def run(main: Callable[[], Awaitable[Any]]) -> Any:
    async def limited() -> Any:
        async with asyncio.timeout(60):
            return await main()

    return asyncio.run(limited())


async def whole(frames: AsyncIterator[bytes | None]) -> str:
    return b"".join([chunk async for chunk in frames if chunk is not None]).decode()


END = 'event: end\ndata: {"state":"SUCCEEDED","reason":null}\n\n'


def test_an_ended_job_is_told_from_the_beginning(either: Service) -> None:
    job = either.finished()
    last = either.store.events.after(job.id)[-1].seq
    said = {"state": job.state, "reason": None}

    async def main() -> None:
        hub = made(either.store)
        numbers = "".join(f"{n} " for n in range(1, last + 1))
        assert await whole(hub.frames(job.id, 0, said)) == numbers + END
        assert await whole(hub.frames(job.id, last - 1, said)) == f"{last} {END}"
        assert await whole(hub.frames(job.id, last, said)) == END, "nothing new but its end"

    run(main)


def test_watchers_from_anywhere_get_each_event_once(service: Service) -> None:
    """One sees the job from the start, one joins late with history, one resumes; events come all the while."""
    job, claim = service.running()
    events = service.store.events

    async def main() -> None:
        hub = made(service.store)
        first = asyncio.create_task(whole(hub.frames(job.id, 0, RUNNING)))
        for _ in range(20):
            await asyncio.to_thread(events.add, job.id, "progress", {})
        late = asyncio.create_task(whole(hub.frames(job.id, 0, RUNNING)))
        resumed = asyncio.create_task(whole(hub.frames(job.id, 10, RUNNING)))
        for _ in range(20):
            await asyncio.to_thread(events.add, job.id, "progress", {})
            await asyncio.sleep(0.005)
        await asyncio.to_thread(service.store.queue.finish, claim, JobState.SUCCEEDED)
        last = (await asyncio.to_thread(events.after, job.id))[-1].seq
        everything = "".join(f"{n} " for n in range(1, last + 1))
        assert await first == await late == everything + END
        assert await resumed == "".join(f"{n} " for n in range(11, last + 1)) + END
        assert hub._channels == {}, "nobody watches: nothing is polled"

    run(main)


def test_a_long_history_is_read_in_pages(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hubs, "PAGE", 7)
    job, claim = service.running()
    for _ in range(30):
        service.store.events.add(job.id, "progress", {})
    service.store.queue.finish(claim, JobState.SUCCEEDED)
    last = service.store.events.after(job.id)[-1].seq

    async def main() -> None:
        text = await whole(made(service.store).frames(job.id, 0, {"state": "SUCCEEDED", "reason": None}))
        assert text == "".join(f"{n} " for n in range(1, last + 1)) + END

    assert PAGE > 7
    run(main)


def test_a_job_that_is_retried_goes_on(service: Service) -> None:
    """The state when the stream began is history: what the events say last counts."""
    job = service.finished()
    service.jobs.act(job.id, "retry")

    async def main() -> None:
        hub = made(service.store)
        frames = hub.frames(job.id, 0, {"state": "SUCCEEDED", "reason": None})
        assert await anext(frames)
        waiting = asyncio.create_task(anext(frames))
        await asyncio.sleep(0.05)
        assert not waiting.done(), "the job waits in the queue again: the stream stays open"
        service.jobs.act(job.id, "cancel")
        assert await waiting
        assert '"state":"CANCELLED"' in await whole(frames)

    run(main)


def test_one_query_serves_all_watchers(service: Service) -> None:
    job, claim = service.running()
    asked: list[Mapping[str, int]] = []

    class Counting:
        def after(self, job: str, seq: int = 0, limit: int = 1000) -> list[Event]:
            return service.store.events.after(job, seq, limit)

        def news(self, positions: Mapping[str, int], limit: int = 1000) -> dict[str, list[Event]]:
            asked.append(dict(positions))
            return service.store.events.news(positions, limit)

    async def main() -> None:
        hub = Hub(Counting(), encode, Metrics())
        watchers = [asyncio.create_task(whole(hub.frames(job.id, 0, RUNNING))) for _ in range(20)]
        while not asked:
            await asyncio.sleep(0.01)
        service.store.queue.finish(claim, JobState.SUCCEEDED)
        texts = await asyncio.gather(*watchers)
        assert len(set(texts)) == 1
        assert all(list(positions) == [job.id] for positions in asked)

    run(main)


def test_a_watcher_that_does_not_read_is_dropped_alone(service: Service) -> None:
    job, _ = service.running()

    async def main() -> None:
        metrics = Metrics()
        hub = Hub(service.store.events, encode, metrics)
        idle = hub.frames(job.id, 0, RUNNING)
        await anext(idle)
        stuck = asyncio.create_task(anext(idle))  # joins the job's channel, takes one batch, then reads no more
        reading = asyncio.create_task(whole(hub.frames(job.id, 0, RUNNING)))
        channel = None
        while channel is None or len(channel.watchers) < 2:
            await asyncio.sleep(0.01)
            channel = hub._channels.get(job.id)
        number = channel.position
        for number in range(channel.position + 1, channel.position + BACKLOG + 5):
            hub._hand_on(channel, [(number, b"x", None)])
            await asyncio.sleep(0)
        assert await stuck == b"x"
        with pytest.raises(Dropped):
            await anext(idle)
        hub._hand_on(channel, [(number + 1, b"last", {"state": "SUCCEEDED", "reason": None})])
        assert (await reading).endswith("last" + END)
        assert b"fusetune_event_watchers_dropped_total 1.0" in metrics.text()

    run(main)


def test_a_database_that_is_away_for_a_moment_is_waited_for(service: Service) -> None:
    job, claim = service.running()
    fails = [InternalError("busy", code="database-busy")] * 2

    class Failing:
        def after(self, job: str, seq: int = 0, limit: int = 1000) -> list[Event]:
            return service.store.events.after(job, seq, limit)

        def news(self, positions: Mapping[str, int], limit: int = 1000) -> dict[str, list[Event]]:
            if fails:
                raise fails.pop()
            return service.store.events.news(positions, limit)

    async def main() -> None:
        hub = Hub(Failing(), encode, Metrics())
        watcher = asyncio.create_task(whole(hub.frames(job.id, 0, RUNNING)))
        while fails:
            await asyncio.sleep(0.01)
        service.store.queue.finish(claim, JobState.SUCCEEDED)
        assert (await watcher).endswith(END)

    run(main)


def test_closing_ends_all_streams(service: Service) -> None:
    job, _ = service.running()

    async def main() -> None:
        hub = made(service.store)
        watchers = [asyncio.create_task(whole(hub.frames(job.id, 0, RUNNING))) for _ in range(3)]
        while not (hub._channels and len(hub._channels[job.id].watchers) == 3):
            await asyncio.sleep(0.01)
        hub.close()
        assert [type(each) for each in await asyncio.gather(*watchers, return_exceptions=True)] == [Dropped] * 3
        with pytest.raises(UserError) as refused:
            hub.frames(job.id, 0, RUNNING)
        assert refused.value.code == "server-closing"

    run(main)


def test_silence_is_told(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hubs, "SILENCE", 0.01)
    job, _ = service.running()

    async def main() -> None:
        frames = made(service.store).frames(job.id, 0, RUNNING)
        assert await anext(frames)
        assert await anext(frames) is None

    run(main)


def test_too_many_watchers_are_refused(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hubs, "WATCHERS", 1)
    job, _ = service.running()

    async def main() -> None:
        hub = made(service.store)
        first = hub.frames(job.id, 0, RUNNING)
        await anext(first)
        with pytest.raises(UserError) as refused:
            hub.frames(job.id, 0, RUNNING)
        assert refused.value.code == "server-busy"
        await first.aclose()  # type: ignore[attr-defined]
        assert hub.frames(job.id, 0, RUNNING)

    run(main)


def test_a_defect_while_reading_does_not_end_the_stream(service: Service) -> None:
    job, claim = service.running()

    class Broken:
        calls = 0

        def after(self, *given: Any) -> list[Event]:
            return service.store.events.after(*given)

        def news(self, positions: Mapping[str, int], limit: int = 1000) -> dict[str, list[Event]]:
            self.calls += 1
            if self.calls < 3:
                raise RuntimeError("a defect")
            return service.store.events.news(positions, limit)

    async def main() -> None:
        hub = Hub(Broken(), encode, Metrics())
        stream = asyncio.create_task(whole(hub.frames(job.id, 0, RUNNING)))
        await asyncio.sleep(0.02)
        await asyncio.to_thread(service.store.queue.finish, claim, JobState.SUCCEEDED)
        assert (await stream).endswith(END)

    run(main)


def test_a_defect_while_handing_on_cuts_off_the_watchers_of_that_job_only(service: Service) -> None:
    (bad, _), (fine, fine_claim) = service.running(), service.running()

    def fragile(event: Event) -> bytes:
        if event.kind == "odd":
            raise RuntimeError("a defect")
        return encode(event)

    async def main() -> None:
        hub = Hub(service.store.events, fragile, Metrics())
        first = asyncio.create_task(whole(hub.frames(bad.id, 2, RUNNING)))
        second = asyncio.create_task(whole(hub.frames(fine.id, 2, RUNNING)))
        await asyncio.sleep(0.05)
        await asyncio.to_thread(service.store.events.add, bad.id, "odd", {})
        with pytest.raises(Dropped):
            await first
        await asyncio.to_thread(service.store.queue.finish, fine_claim, JobState.SUCCEEDED)
        assert (await second).endswith(END)

    run(main)
