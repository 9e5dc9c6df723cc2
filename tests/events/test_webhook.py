"""Messages over HTTP, to a receiver that is a process of its own or answers what a test wants."""

import base64
import contextlib
import importlib.util
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from stdeploy.events.sink import Message, RefusedError, TryAgainError
from stdeploy.events.webhook import Webhook, WebhookSettings, signature
from tests.events.feeding import feed_events, pipeline
from tests.helpers.receivers import (
    certificate_of_localhost,
    free_port,
    json_lines,
    until,
    webhook_receiver,
)

MESSAGE = Message("e1.start", b'{"id": "e1.start", "source": "T\xc3\xbcr"}')


class Answers(ThreadingHTTPServer):
    """Gives the statuses of a test in turn, the last of them for ever; keeps what it was sent."""

    def __init__(self, *statuses: int, headers: dict[str, str] | None = None, body: bytes = b""):
        self.statuses, self.headers, self.body = list(statuses), headers or {}, body
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.connections = 0
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/events?a=b"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self.server.connections += 1

    def do_POST(self) -> None:
        of = self.server
        headers = {name.lower(): value for name, value in self.headers.items()}
        of.requests.append((headers, self.rfile.read(int(headers["content-length"]))))
        self.send_response(of.statuses.pop(0) if len(of.statuses) > 1 else of.statuses[0])
        for name, value in of.headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(of.body)))
        self.end_headers()
        self.wfile.write(of.body)

    def log_message(self, *arguments: object) -> None:
        pass


@contextlib.contextmanager
def answering(*statuses: int, **more: object) -> Iterator[Answers]:
    with Answers(*statuses, **more) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def sink(url: str, **fields: object) -> Webhook:
    return WebhookSettings.parse({"url": url, **fields}).open("alarm")


def test_a_message_is_posted_with_its_id(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("abc\n")
    with answering(200) as server:
        sink(server.url, token_file=tmp_path / "token").deliver(MESSAGE)
    ((headers, body),) = server.requests
    assert body == MESSAGE.body
    assert headers["content-type"] == "application/json"
    assert headers["idempotency-key"] == headers["webhook-id"] == "e1.start"
    assert headers["authorization"] == "Bearer abc"
    assert "webhook-signature" not in headers


def test_one_connection_serves_many_messages_however_much_is_answered() -> None:
    with answering(200, body=b"x" * 1000) as server:
        posting = sink(server.url)
        for _ in range(5):
            posting.deliver(MESSAGE)
        assert server.connections == 1
        server.body = b"x" * 1_000_000
        posting.deliver(MESSAGE)
        posting.deliver(MESSAGE)
        assert server.connections == 2


def test_the_signature_is_that_of_the_specification() -> None:
    """The example of https://github.com/standard-webhooks/standard-webhooks."""
    key = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    found = signature(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert found == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.skipif(
    importlib.util.find_spec("standardwebhooks") is None, reason="standardwebhooks is not here"
)
@pytest.mark.parametrize("plain", [True, False], ids=["plain", "whsec"])
def test_a_library_of_the_specification_verifies_it(tmp_path: Path, plain: bool) -> None:
    from standardwebhooks import Webhook as Verifier

    encoded = base64.b64encode(b"a secret of ours").decode()
    (tmp_path / "secret").write_text("a secret of ours" if plain else f"whsec_{encoded}")
    with answering(200) as server:
        sink(server.url, secret_file=tmp_path / "secret").deliver(MESSAGE)
    ((headers, body),) = server.requests
    assert Verifier(encoded).verify(body.decode(), headers) == MESSAGE.record


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503])
def test_what_may_pass_is_to_be_tried_again(status: int) -> None:
    with answering(status) as server, pytest.raises(TryAgainError, match=f"HTTP status {status}"):
        sink(server.url).deliver(MESSAGE)


@pytest.mark.parametrize("status", [301, 307, 400, 401, 404, 410, 413, 422])
def test_what_will_not_pass_is_refused(status: int) -> None:
    headers = {"location": "/elsewhere"}
    with (
        answering(status, 200, headers=headers) as server,
        pytest.raises(RefusedError, match=f"HTTP status {status}"),
    ):
        sink(server.url).deliver(MESSAGE)
    assert len(server.requests) == 1  # no redirection was followed


@pytest.mark.parametrize(
    ("value", "seconds"), [("7", 7.0), ("-3", 0.0), ("1e9", 300.0), ("soon", None), ("nan", None)]
)
def test_the_receiver_says_when_it_wants_it_again(value: str, seconds: float | None) -> None:
    headers = {"retry-after": value}
    with answering(503, headers=headers) as server, pytest.raises(TryAgainError) as raised:
        sink(server.url).deliver(MESSAGE)
    assert raised.value.after_seconds == seconds


def test_a_date_will_do_as_well() -> None:
    date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 100))
    headers = {"retry-after": date}
    with answering(503, headers=headers) as server, pytest.raises(TryAgainError) as raised:
        sink(server.url).deliver(MESSAGE)
    assert 90 < raised.value.after_seconds <= 100


def test_nobody_there_is_told_in_words() -> None:
    with pytest.raises(TryAgainError, match=r"Connection refused"):
        sink(f"http://127.0.0.1:{free_port()}/").deliver(MESSAGE)


def test_a_receiver_that_never_answers_is_not_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        start = time.monotonic()
        with pytest.raises(TryAgainError, match=r"timed out"):
            sink(f"http://127.0.0.1:{port}/", timeout_seconds=0.3).deliver(MESSAGE)
        assert time.monotonic() - start < 5


def test_a_receiver_that_says_yes_and_goes_on_talking_has_the_message() -> None:
    stop = threading.Event()

    def talk(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        with connection, contextlib.suppress(OSError):
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
            while not stop.wait(0.05):
                connection.sendall(b"x")

    with socket.create_server(("127.0.0.1", 0)) as listening:
        talking = threading.Thread(target=talk, args=(listening,))
        talking.start()
        try:
            port = listening.getsockname()[1]
            sink(f"http://127.0.0.1:{port}/", timeout_seconds=0.5).deliver(MESSAGE)
        finally:
            stop.set()
            talking.join()


def test_a_certificate_of_nobody_is_refused_and_that_of_ca_file_taken(tmp_path: Path) -> None:
    certificate, key = certificate_of_localhost(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with answering(200) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        url = f"https://localhost:{server.server_port}/"
        posting = sink(url, ca_file=certificate)
        posting.deliver(MESSAGE)
        posting.close()
        with pytest.raises(TryAgainError, match=r"certificate verify failed"):
            sink(url).deliver(MESSAGE)
        other = f"https://127.0.0.1:{server.server_port}/"
        with pytest.raises(TryAgainError, match=r"certificate|mismatch"):
            sink(other, ca_file=certificate).deliver(MESSAGE)
    assert len(server.requests) == 1


def test_a_receiver_that_was_away_gets_everything_once_and_in_order(tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "secret").write_text("s3cret")
    hook = {
        "kind": "webhook",
        "url": f"http://127.0.0.1:{port}/",
        "secret_file": "secret",
        "longest_pause_seconds": 0.2,
    }
    told: list[str] = []
    with pipeline(tmp_path, hook, report=told.append) as events:
        with webhook_receiver(tmp_path, port, tmp_path / "secret") as file:
            ids = feed_events(events, 3)
            until(lambda: len(json_lines(file)) == 6)
        ids += feed_events(events, 5, first=3)
        until(lambda: events.counts().sinks["webhook"].retried >= 2)
        with webhook_receiver(tmp_path, port, tmp_path / "secret"):
            until(lambda: len(json_lines(file)) == 16)
            until(lambda: events.counts().sinks["webhook"].queued == 0)
        counts = events.counts().sinks["webhook"]
    assert [line["id"] for line in json_lines(file)] == ids
    assert (counts.delivered, counts.dropped, counts.dead) == (16, 0, 0)
    assert told[0].endswith("trying again, messages wait in the queue")
    assert told[-1] == "sink 'webhook': messages get through again"


def test_the_example_refuses_what_is_signed_with_another_secret(tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "secret").write_text("s3cret")
    (tmp_path / "other").write_text("0ther")
    with webhook_receiver(tmp_path, port, tmp_path / "secret") as file:
        url = f"http://127.0.0.1:{port}/"
        with pytest.raises(RefusedError, match=r"HTTP status 401"):
            sink(url, secret_file=tmp_path / "other").deliver(MESSAGE)
        posting = sink(url, secret_file=tmp_path / "secret")
        posting.deliver(MESSAGE)
        posting.deliver(MESSAGE)
    assert json_lines(file) == [MESSAGE.record]
    log = (tmp_path / "receiver.log").read_text().splitlines()
    assert log[-2:] == ["new e1.start", "had already e1.start"]


def test_what_is_refused_is_given_up_and_the_next_goes_on(tmp_path: Path) -> None:
    told: list[str] = []
    with answering(401, 401, 200) as server:
        hook = {"kind": "webhook", "url": server.url}
        hook |= {"tries_when_refused": 2, "longest_pause_seconds": 0.1}
        with pipeline(tmp_path, hook, report=told.append) as events:
            feed_events(events, 1)
            until(lambda: events.counts().sinks["webhook"].delivered == 1)
            counts = events.counts().sinks["webhook"]
    assert (counts.dead, counts.retried, counts.queued) == (1, 1, 0)
    sent = [headers["webhook-id"].rpartition(".")[2] for headers, _ in server.requests]
    assert sent == ["start", "start", "end"]
    assert "HTTP status 401, 2 times; message" in told[1]
