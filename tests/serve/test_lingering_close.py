"""Closing in two steps, on real connections."""

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import pytest

from stdeploy.serve import lingering_close
from stdeploy.serve.lingering_close import LingeringTransport


class _Refuses(asyncio.Protocol):
    """Answers the first bytes, and closes."""

    def __init__(self, *, client_sends: bool) -> None:
        self._client_sends = client_sends
        self.thrown_away = 0
        self.ended = asyncio.Event()
        self.answered = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = LingeringTransport(
            cast("asyncio.Transport", transport),
            lambda: self._client_sends,
            asyncio.get_running_loop(),
        )

    def data_received(self, data: bytes) -> None:
        if self.transport.throws_away(len(data)):
            self.thrown_away += len(data)
            return
        assert not self.answered, "bytes came to a connection that is closing"
        self.answered = True
        self.transport.write(b"no")
        self.transport.close()
        assert self.transport.is_closing()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self.transport.close()
        self.ended.set()


@asynccontextmanager
async def _refused(
    *, client_sends: bool
) -> AsyncIterator[tuple[_Refuses, asyncio.StreamReader, asyncio.StreamWriter]]:
    """Both sides, after the answer was read to its end."""
    protocol = _Refuses(client_sends=client_sends)
    server = await asyncio.get_running_loop().create_server(lambda: protocol, "127.0.0.1", 0)
    async with server, asyncio.timeout(60):
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"half of a body")
        assert await reader.read() == b"no"
        yield protocol, reader, writer
        writer.close()


async def _reads_on() -> None:
    async with _refused(client_sends=True) as (protocol, _, writer):
        assert not protocol.ended.is_set()
        writer.write(b"the other half")
        while protocol.thrown_away < len(b"the other half"):
            await asyncio.sleep(0.01)
        writer.write_eof()
        await protocol.ended.wait()


async def _ends(*, client_sends: bool = True, sends: bytes = b"") -> None:
    async with _refused(client_sends=client_sends) as (protocol, _, writer):
        writer.write(sends)
        await protocol.ended.wait()


def test_a_client_that_sends_reads_the_end_and_sends_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lingering_close, "_SILENT_SECONDS", 60)
    asyncio.run(_reads_on())


def test_it_does_not_wait_where_nothing_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lingering_close, "_SILENT_SECONDS", 3600)
    asyncio.run(_ends(client_sends=False))


@pytest.mark.parametrize("limit", ["_SILENT_SECONDS", "_LINGER_SECONDS"])
def test_a_client_that_does_not_close_is_closed_soon(
    monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(lingering_close, "_SILENT_SECONDS", 3600)
    monkeypatch.setattr(lingering_close, "_LINGER_SECONDS", 3600)
    monkeypatch.setattr(lingering_close, limit, 0.05)
    asyncio.run(_ends())


def test_a_client_that_sends_without_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lingering_close, "_SILENT_SECONDS", 3600)
    monkeypatch.setattr(lingering_close, "_LINGER_SECONDS", 3600)
    monkeypatch.setattr(lingering_close, "_LINGER_BYTES", 100)
    asyncio.run(_ends(sends=bytes(200)))


@pytest.fixture
def certificate(tmp_path: Path) -> ssl.SSLContext:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not here")
    files = "-keyout", tmp_path / "key.pem", "-out", tmp_path / "certificate.pem"
    kind = "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"
    subprocess.run(
        ["openssl", "req", "-x509", "-nodes", "-subj", "/CN=a", *kind, *files],
        check=True,
        capture_output=True,
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "certificate.pem", tmp_path / "key.pem")
    return context


async def _sends_all_first(certificate: ssl.SSLContext) -> None:
    anybody = ssl.create_default_context()
    anybody.check_hostname, anybody.verify_mode = False, ssl.CERT_NONE
    protocol = _Refuses(client_sends=True)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: protocol, "127.0.0.1", 0, ssl=certificate)
    async with server, asyncio.timeout(60):
        address = server.sockets[0].getsockname()
        reader, writer = await asyncio.open_connection(*address, ssl=anybody)
        for _ in range(20):
            writer.write(bytes(100_000))
            await writer.drain()
            await asyncio.sleep(0)
        assert await reader.readexactly(2) == b"no"
        writer.close()
        await protocol.ended.wait()
    assert protocol.thrown_away > 0


def test_a_client_of_tls_hears_it_too(certificate: ssl.SSLContext) -> None:
    asyncio.run(_sends_all_first(certificate))
