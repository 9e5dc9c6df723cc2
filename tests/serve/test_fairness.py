"""A server under a flood, in virtual time: its gate, admission and queues, a network that waits.

What takes time in a real server (decoding, the network) only waits here; who may come in, who is
next and what is told to whom is decided by the code that a server runs.
"""

import asyncio
import collections
import contextlib
import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request

from stdeploy.serve.admission import DurationEstimator
from stdeploy.serve.errors import RequestError
from stdeploy.serve.request_gate import RequestGate
from stdeploy.serve.scheduling import ClientSlots, ClipBatcher, Job
from stdeploy.serve.settings import load
from stdeploy.serve.uploads import UploadFolder
from tests.serve.virtual_time import run

DECODERS = 2
FLOOD = "203.0.113.9"
GOOD = [f"198.51.100.{number}" for number in range(5)]


@dataclasses.dataclass
class Outcome:
    """What came back to whom: codes, 200 among them, and seconds of the good answers."""

    codes: dict[str, "collections.Counter[str]"]
    seconds: dict[str, list[float]]


class SimulatedServer:
    """A server in virtual time.

    Args:
        folder: for uploads; there are none.
        clip_seconds: that the network takes for a clip.
        known: whether that has been measured before the first request.
        request_seconds: the setting.
    """

    def __init__(
        self,
        folder: UploadFolder,
        clip_seconds: float,
        *,
        known: bool = True,
        request_seconds: float = 60.0,
    ) -> None:
        self._clip_seconds = clip_seconds
        settings = load({"decode_workers": DECODERS, "request_seconds": request_seconds}, None)
        self._gate = RequestGate(settings, folder)
        self._durations = DurationEstimator(clip_seconds if known else 0.0, decoders=DECODERS)
        self._slots = ClientSlots(DECODERS + 2)  # as in Service
        self._clips: ClipBatcher[tuple[asyncio.Future[None], Job]] = ClipBatcher(1, 0.005)
        self._changed = asyncio.Event()
        codes: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        self.outcome = Outcome(codes, collections.defaultdict(list))

    async def network(self) -> None:
        """What the thread of the network does."""
        loop = asyncio.get_running_loop()
        while True:
            self._clips.expire(loop.time())
            due = self._clips.due(loop.time())
            if due != 0:
                self._changed.clear()
                await _wait(self._changed, due)
                continue
            for future, job in self._clips.take():
                job.start()
                await asyncio.sleep(self._clip_seconds)
                self._durations.ran(1, self._clip_seconds)
                if not future.done():
                    future.set_result(None)

    async def ask(self, client: str, clips: int = 1) -> int:
        """Send a request and note what comes; the seconds to wait when it was refused."""
        loop = asyncio.get_running_loop()
        request = _request(client)
        start = loop.time()
        try:
            with self._gate.admitted(request, self._durations, clips) as place:
                job = Job(place, start + self._gate.settings.request_seconds)
                await self._gate.answer(request, job, self._work(job, clips))
        except RequestError as error:
            self.outcome.codes[client][error.code] += 1
            return error.retry_after_seconds or 0
        self.outcome.codes[client]["200"] += 1
        self.outcome.seconds[client].append(loop.time() - start)
        return 0

    async def asks(self, client: str, *, patient: bool, clips: int = 1) -> None:
        """One request after the other."""
        while True:
            await asyncio.sleep(0.02)  # to send it
            if after := await self.ask(client, clips):
                await asyncio.sleep(after if patient else self._clip_seconds / 2)

    async def _work(self, job: Job, clips: int) -> None:
        async with self._slots.hold(job):
            job.start()
            await asyncio.sleep(0.05 * self._clip_seconds)  # to decode it
            for _ in range(clips):
                future = asyncio.get_running_loop().create_future()
                now = asyncio.get_running_loop().time()
                self._clips.add((future, job), client=job.client, deadline=job.deadline, now=now)
                self._changed.set()
                try:
                    await future
                finally:
                    self._clips.remove(lambda clip: clip[1] is job)


async def _wait(event: asyncio.Event, seconds: float | None) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)


def _request(client: str) -> Request:
    async def receive() -> Any:
        await asyncio.Event().wait()  # the client stays

    scope = {"type": "http", "client": (client, 1), "headers": []}
    return Request(scope, receive)


async def _flooded(
    server: SimulatedServer, seconds: float, *, flood_clips: int = 1, head_start: float = 5.0
) -> Outcome:
    """A flood of 100 connections, and somewhat later five clients with one request each."""
    tasks = [asyncio.ensure_future(server.network())]
    tasks += [
        asyncio.ensure_future(server.asks(FLOOD, patient=False, clips=flood_clips))
        for _ in range(100)
    ]
    await asyncio.sleep(head_start)
    tasks += [asyncio.ensure_future(server.asks(client, patient=True)) for client in GOOD]
    await asyncio.sleep(seconds)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return server.outcome


@pytest.fixture
def uploads(tmp_path: Path) -> Iterator[UploadFolder]:
    with UploadFolder(tmp_path) as folder:
        yield folder


# Six clients have a turn each within nine tenths of the seconds of a request.
@pytest.mark.parametrize(
    ("answer_seconds", "request_seconds"), [(0.5, 60.0), (2.5, 60.0), (6.0, 60.0), (12.0, 120.0)]
)
def test_each_good_client_keeps_its_share_under_a_flood(
    uploads: UploadFolder, answer_seconds: float, request_seconds: float
) -> None:
    duration = 120 * answer_seconds
    server = SimulatedServer(uploads, answer_seconds, request_seconds=request_seconds)
    outcome = run(_flooded(server, duration))
    fair = duration / answer_seconds / (len(GOOD) + 1)
    for client in GOOD:
        codes = outcome.codes[client]
        assert codes["200"] >= 0.8 * fair, codes
        assert set(codes) == {"200"}, codes
    codes = outcome.codes[FLOOD]
    assert codes["200"] >= 0.8 * fair, codes  # who sends much work honestly has a share, too,
    assert codes["deadline"] == 0, codes  # and is not kept waiting in vain


def test_a_flood_of_long_requests_takes_no_more_than_its_share_either(
    uploads: UploadFolder,
) -> None:
    outcome = run(_flooded(SimulatedServer(uploads, 1.0), 240.0, flood_clips=20))
    for client in GOOD:
        codes = outcome.codes[client]
        assert codes["200"] >= 0.8 * 240 / (len(GOOD) + 1), codes
        assert set(codes) == {"200"}, codes


def test_a_flood_that_is_told_to_make_room_hears_so_at_once(uploads: UploadFolder) -> None:
    async def main() -> Outcome:
        server = SimulatedServer(uploads, 6.0)
        network = asyncio.ensure_future(server.network())
        flood = [asyncio.ensure_future(server.ask(FLOOD)) for _ in range(9)]
        await asyncio.sleep(1.0)
        good = [asyncio.ensure_future(server.ask(client)) for client in GOOD]
        await asyncio.sleep(1.0)
        assert sum(task.done() for task in flood) == 5
        assert server.outcome.codes[FLOOD] == {"over_share": 5}
        await asyncio.gather(*flood, *good)
        network.cancel()
        return server.outcome

    outcome = run(main())
    assert outcome.codes[FLOOD] == {"over_share": 5, "200": 4}
    assert all(outcome.codes[client] == {"200": 1} for client in GOOD)


def test_others_who_asked_before_take_nothing_of_an_idle_server(uploads: UploadFolder) -> None:
    async def main() -> Outcome:
        server = SimulatedServer(uploads, 0.5)
        network = asyncio.ensure_future(server.network())
        for number in range(70):
            await server.ask(f"192.0.2.{number}")
        await asyncio.gather(*(server.ask(FLOOD) for _ in range(4)))
        network.cancel()
        return server.outcome

    assert run(main()).codes[FLOOD] == {"200": 4}


@pytest.mark.parametrize("clients", [1, 4, 83])
def test_a_server_that_has_just_started_lets_in_what_it_can_answer(
    uploads: UploadFolder, clients: int
) -> None:
    async def main() -> Outcome:
        server = SimulatedServer(uploads, 1.6)
        network = asyncio.ensure_future(server.network())
        asked = [server.ask(f"192.0.2.{number % clients}") for number in range(83)]
        await asyncio.gather(*asked)
        network.cancel()
        return server.outcome

    codes = sum(run(main()).codes.values(), collections.Counter())
    assert codes["200"] == min(clients, 33) * math.floor(0.9 * 60 / 1.6 / min(clients, 33))
    assert set(codes) <= {"200", "full", "over_share"}


def test_an_idle_server_that_was_slow_before_still_knows_it(uploads: UploadFolder) -> None:
    async def main() -> Outcome:
        server = SimulatedServer(uploads, 3.0, known=False)
        network = asyncio.ensure_future(server.network())
        await server.ask(FLOOD)
        await asyncio.sleep(1000.0)
        await asyncio.gather(*(server.ask(FLOOD) for _ in range(60)))
        network.cancel()
        return server.outcome

    assert run(main()).codes[FLOOD] == {"200": 1 + 18, "full": 42}
