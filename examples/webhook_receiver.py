"""Receive the events of `stdeploy watch --sources`: verified, and each only once.

python examples/webhook_receiver.py 8080 events.jsonl secret

The third is the file that secret_file names in [[events.sinks]]; without it nothing is verified.
"""

import base64
import hashlib
import hmac
import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock

OLDEST_SECONDS = 300  # of a request, so that nobody can send it again much later


def main(port: str, events: str, secret: str | None = None) -> None:
    """Append each event that was not there yet to a file of JSON lines."""
    file = Path(events)
    lines = file.read_text().splitlines() if file.exists() else []
    known = {json.loads(line)["id"] for line in lines}
    key = None if secret is None else key_of(Path(secret).read_text().strip())
    lock = Lock()

    class Receiver(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # one connection for many events

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if key is not None and not self.is_genuine(key, body):
                return self.answer(401)
            event = json.loads(body)
            with lock:
                new = event["id"] not in known
                if new:
                    with file.open("a") as lines:
                        lines.write(json.dumps(event) + "\n")
                    known.add(event["id"])
            print("new" if new else "had already", event["id"], flush=True)
            return self.answer(204)

        def is_genuine(self, key: bytes, body: bytes) -> bool:
            name, sent = self.headers["webhook-id"], self.headers["webhook-timestamp"]
            expected = hmac.digest(key, f"{name}.{sent}.".encode() + body, hashlib.sha256)
            given = self.headers["webhook-signature"].removeprefix("v1,")
            young = abs(time.time() - int(sent)) < OLDEST_SECONDS
            return young and hmac.compare_digest(base64.b64encode(expected).decode(), given)

        def answer(self, status: int) -> None:
            self.send_response(status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            """One line for each event is enough."""

    ThreadingHTTPServer(("127.0.0.1", int(port)), Receiver).serve_forever()


def key_of(secret: str) -> bytes:
    """Bytes of a secret: base64 after whsec_, else the text itself."""
    if secret.startswith("whsec_"):
        return base64.b64decode(secret.removeprefix("whsec_"))
    return secret.encode()


if __name__ == "__main__":
    main(*sys.argv[1:])
