"""Requests that are made to do harm, and what may be answered to each. Seeded, so repeatable."""

import json
import random
import socket
import time
from collections.abc import Callable
from pathlib import Path

from tests.helpers.video_attacks import ATTACKS, write_secret

Send = Callable[[socket.socket, random.Random], None]
Address = tuple[str, int]

_MP4 = b"\0\0\0\x20ftypisom\0\0\0\0isom"


class Hostile:
    """All kinds of hostile requests.

    Args:
        folder: files are made in it.
        video: a good one.
        model: the name of the model.
    """

    def __init__(self, folder: Path, video: Path, model: str = "tiny") -> None:
        self._model = model
        self._video = video.read_bytes()
        secret = write_secret(folder / "secret.mp4")
        self.secret = secret
        self._attacks = []
        for name, (make, _) in ATTACKS.items():
            make(folder / name, secret)
            self._attacks.append((folder / name).read_bytes())
        # What a request may be answered; 0 is a connection that ends without an answer.
        self.kinds: dict[str, tuple[Send, set[int]]] = {
            "attack": (self._attack, {200, 415, 422, 503, 504}),
            "attack behind a good head": (self._hidden_attack, {415, 422, 503, 504}),
            "bytes changed": (self._changed, {200, 415, 422, 503, 504}),
            "noise": (self._noise, {415, 422, 503}),
            "noise behind a good head": (self._noise_with_head, {422, 503}),
            "cut off": (self._cut_off, {0, 400, 408}),
            "wrong type": (self._wrong_type, {400, 415}),
            "form": (self._form, {400, 415, 422, 503}),
            "many chunks": (self._many_chunks, {200, 415, 422, 503}),
            "bad chunks": (self._bad_chunks, {0, 400, 408, 415}),
            "slow head": (self._slow_head, {0, 408}),
            "slow body": (self._slow_body, {0, 408, 415}),
            "large head": (self._large_head, {0, 431}),
            "no HTTP": (self._no_http, {0, 400, 408}),
            "many requests in a row": (self._pipeline, {200}),
            "options": (self._options, {404, 422, 503}),
            "tensors": (self._tensors, {400, 503}),
            "JSON": (self._json, {0, 400, 413, 503}),
            "vanishes": (self._vanishes, {0}),
        }

    def send(
        self, kind: str, address: Address, seed: int, *, also: frozenset[int] = frozenset()
    ) -> int:
        """Send one; the status of the answer, 0 where none came.

        Args:
            kind: of the request.
            address: of the server.
            seed: of what is random in it.
            also: further answers that are allowed, for load under which any body may be slow.

        Raises:
            AssertionError: another answer than those that are allowed for the kind, or one that
                shows a path of the host.
        """
        how, allowed = self.kinds[kind]
        with socket.create_connection(address, timeout=150) as connection:
            try:
                how(connection, random.Random(f"{kind} {seed}"))
                answer = b""
                if kind != "vanishes":
                    while chunk := connection.recv(65536):
                        answer += chunk
                        if _complete(answer):
                            break
            except (BrokenPipeError, ConnectionResetError):
                answer = b""
        status = int(answer.split()[1]) if answer.startswith(b"HTTP/1.1 ") else 0
        assert status in allowed | also, (kind, seed, answer[:500])
        for shown in (b"/tmp", b"/root", b"/work", b"site-packages", b"Traceback", b".py"):
            assert shown not in answer, (kind, seed, answer[:500])
        return status

    def _post(self, connection: socket.socket, body: bytes, kind: str = "video/mp4") -> None:
        connection.sendall(_head(f"Content-Type: {kind}", f"Content-Length: {len(body)}") + body)

    def _attack(self, connection: socket.socket, draw: random.Random) -> None:
        self._post(connection, draw.choice(self._attacks))

    def _hidden_attack(self, connection: socket.socket, draw: random.Random) -> None:
        self._post(connection, _MP4 + draw.choice(self._attacks[:4]))

    def _changed(self, connection: socket.socket, draw: random.Random) -> None:
        content = bytearray(self._video)
        for _ in range(draw.randrange(1, 200)):
            content[draw.randrange(len(content))] = draw.randrange(256)
        end = draw.choice([len(content), draw.randrange(100, len(content))])
        self._post(connection, bytes(content[:end]))

    def _noise(self, connection: socket.socket, draw: random.Random) -> None:
        self._post(connection, b"?" + draw.randbytes(draw.randrange(1, 50_000)))

    def _noise_with_head(self, connection: socket.socket, draw: random.Random) -> None:
        self._post(connection, _MP4 + draw.randbytes(draw.randrange(1, 50_000)))

    def _cut_off(self, connection: socket.socket, draw: random.Random) -> None:
        whole = _head("Content-Type: video/mp4", f"Content-Length: {len(self._video)}")
        whole += self._video
        connection.sendall(whole[: draw.randrange(1, len(whole))])
        connection.shutdown(socket.SHUT_WR)

    def _wrong_type(self, connection: socket.socket, draw: random.Random) -> None:
        kind = draw.choice(
            ["text/html", "", "video", "image/png", "\xff", "multipart/form-data", "a/b;c"]
        )
        self._post(connection, self._video[:1000], kind)

    def _form(self, connection: socket.socket, draw: random.Random) -> None:
        pieces = [
            b"--b\r\n",
            b'Content-Disposition: form-data; name="file"; filename="../../x"\r\n\r\n',
            b'Content-Disposition: form-data; name="top_k"\r\n\r\n',
            b"\r\n",
            b"--b--\r\n",
            b"--",
            draw.randbytes(300),
            _MP4,
            b"X: " + b"y" * 5000 + b"\r\n",
        ]
        body = b"".join(draw.choice(pieces) for _ in range(draw.randrange(1, 30)))
        self._post(connection, body, "multipart/form-data; boundary=b")

    def _many_chunks(self, connection: socket.socket, draw: random.Random) -> None:
        body = _MP4 + draw.randbytes(2000) if draw.random() < 0.5 else self._video[:3000]
        chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
        connection.sendall(_head("Content-Type: video/mp4", "Transfer-Encoding: chunked") + chunks)

    def _bad_chunks(self, connection: socket.socket, draw: random.Random) -> None:
        size = draw.choice(
            [b"-1", b"fffffffffffffffff", b"x", b"", b"1" * 100, b"10;" + b"e" * 9999]
        )
        connection.sendall(_head("Content-Type: video/mp4", "Transfer-Encoding: chunked"))
        connection.sendall(size + b"\r\n" + b"z" * 100)
        connection.shutdown(socket.SHUT_WR)

    def _slow_head(self, connection: socket.socket, draw: random.Random) -> None:
        connection.sendall(b"POST /v1/classify HTTP/1.1\r\n"[: draw.randrange(0, 28)])

    def _slow_body(self, connection: socket.socket, draw: random.Random) -> None:
        connection.sendall(_head("Content-Type: video/mp4", "Content-Length: 99999"))
        for byte in _MP4[: draw.randrange(1, 10)]:
            connection.sendall(bytes([byte]))
            time.sleep(0.02)

    def _large_head(self, connection: socket.socket, draw: random.Random) -> None:
        lines = [f"X-{number}: {'y' * draw.randrange(1, 300)}" for number in range(2000)]
        connection.sendall(_head(*lines))

    def _no_http(self, connection: socket.socket, draw: random.Random) -> None:
        connection.sendall(draw.randbytes(draw.randrange(1, 3000)) + b"\r\n\r\n")
        connection.shutdown(socket.SHUT_WR)

    def _pipeline(self, connection: socket.socket, _draw: random.Random) -> None:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n" * 50)

    def _options(self, connection: socket.socket, draw: random.Random) -> None:
        query = draw.choice(
            [
                "top_k=-1",
                "top_k=%00",
                "views=1e9",
                "hop_seconds=nan",
                "x=" + "y" * 3000,
                "stream=maybe",
            ]
        )
        connection.sendall(
            f"POST /v1/classify?{query} HTTP/1.1\r\nHost: localhost\r\nContent-Type: video/mp4\r\n"
            "Content-Length: 5\r\nConnection: close\r\n\r\nhello".encode()
        )

    def _tensors(self, connection: socket.socket, draw: random.Random) -> None:
        def anything(depth: int) -> object:
            simple = [None, True, -1, 1e300, "x" * 50, 2**70, [], {}]
            if depth == 0:
                return draw.choice(simple)
            names = ["inputs", "name", "shape", "datatype", "data", "parameters", "outputs", "id"]
            return draw.choice(
                [
                    {draw.choice(names): anything(depth - 1) for _ in range(4)},
                    [anything(depth - 1) for _ in range(3)],
                    {
                        "inputs": [
                            {"name": "frames", "datatype": "UINT8", "shape": anything(depth - 1)}
                        ]
                    },
                ]
            )

        body = json.dumps(anything(4)).encode()
        length = draw.choice(["", "Inference-Header-Content-Length: 7\r\n"])
        connection.sendall(
            f"POST /v2/models/{self._model}/infer HTTP/1.1\r\nHost: localhost\r\n{length}"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
            + body
        )

    def _json(self, connection: socket.socket, draw: random.Random) -> None:
        size = draw.choice([2**12, 2**18, 2**20, 2**22, 47 * 2**20])
        before, each = draw.choice(
            [
                (b"", b"["),
                (b"[", b"[],"),
                (b'{"inputs":[{"name":"frames","data":[', b"[],"),
                (b'{"inputs":[{"name":"frames","data":[', b"255, "),
                (b'{"data":[', b'"data":['),
                (b'{"id":"', b"\\u0041"),
            ]
        )
        connection.sendall(
            f"POST /v2/models/{self._model}/infer HTTP/1.1\r\nHost: localhost\r\n"
            f"Content-Length: {size}\r\nConnection: close\r\n\r\n".encode()
            + (before + each * (size // len(each)))[:size]
        )

    def _vanishes(self, connection: socket.socket, draw: random.Random) -> None:
        self._post(connection, self._video)
        time.sleep(draw.random() * 0.5)


def _head(*lines: str) -> bytes:
    first = ("POST /v1/classify HTTP/1.1", "Host: localhost", "Connection: close")
    return ("\r\n".join((*first, *lines)) + "\r\n\r\n").encode("latin-1")


def _complete(answer: bytes) -> bool:
    """Whether the last of several answers on one connection has come."""
    return answer.count(b"HTTP/1.1 200") >= 50 and answer.endswith(b"}")
