"""What events are sent to, as processes of their own: an HTTP server, and an MQTT broker."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BROKER = shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def until(met: Callable[[], object], *, seconds: float = 20.0, what: str = "") -> None:
    """Wait for a condition; fail if it does not come."""
    end = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < end, f"{what or met} did not come in {seconds} s"
        time.sleep(0.02)


def answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
        return True
    return False


def json_lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def certificate_of_localhost(folder: Path) -> tuple[Path, Path]:
    """A certificate that signs itself, and its key; skips where openssl is not."""
    certificate, key = folder / "cert.pem", folder / "key.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost"
    files = ["-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate]
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not here")
    subprocess.run([*command.split(), *files], check=True, capture_output=True)
    return certificate, key


@contextlib.contextmanager
def process(*command: object, cwd: Path, output: Path) -> Iterator[subprocess.Popen]:
    """A process that is ended with the block."""
    with output.open("ab") as log:
        running = subprocess.Popen([*map(str, command)], cwd=cwd, stdout=log, stderr=log)
    try:
        yield running
    finally:
        running.send_signal(signal.SIGTERM)
        running.wait(timeout=20)


@contextlib.contextmanager
def webhook_receiver(folder: Path, port: int, secret: Path | None = None) -> Iterator[Path]:
    """examples/webhook_receiver.py; gives its file of events. "receiver.log" has every request."""
    events = folder / "received.jsonl"
    program = ROOT / "examples" / "webhook_receiver.py"
    arguments = (port, events, *([] if secret is None else [secret]))
    with process(sys.executable, program, *arguments, cwd=folder, output=folder / "receiver.log"):
        until(lambda: answers(port), what="the receiver")
        yield events


@contextlib.contextmanager
def broker(folder: Path, port: int, *settings: str) -> Iterator[subprocess.Popen]:
    """Mosquitto, which keeps what it has for those that are away; skips where it is not."""
    if BROKER is None:
        pytest.skip("mosquitto is not installed (apt-get install mosquitto)")
    lines = [f"listener {port} 127.0.0.1", "persistence true", f"persistence_location {folder}/"]
    if not any(line.startswith("allow_anonymous") for line in settings):
        lines.append("allow_anonymous true")
    if os.geteuid() == 0:
        lines.insert(0, "user root")  # else it becomes one who may not write here
    (folder / "mosquitto.conf").write_text("\n".join([*lines, *settings]) + "\n")
    command = (BROKER, "-v", "-c", folder / "mosquitto.conf")
    with process(*command, cwd=folder, output=folder / "broker.log") as running:
        until(lambda: answers(port), what="the broker")
        yield running


class Subscriber:
    """Gets what comes on all topics, for as long as it is open; the broker keeps what it misses.

    Attributes:
        received: topic and JSON of each message.
    """

    def __init__(self, port: int, *, topic: str = "#", **client: object) -> None:
        from paho.mqtt import client as paho
        from paho.mqtt.enums import CallbackAPIVersion

        self.received: list[tuple[str, dict]] = []
        self._client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id="subscriber", clean_session=False
        )
        self._client.reconnect_delay_set(1, 1)
        for name, value in client.items():
            getattr(self._client, name)(*value)
        ready: list[bool] = []
        self._client.on_connect = lambda client, *_: client.subscribe(topic, qos=1)
        self._client.on_subscribe = lambda *_: ready.append(True)
        self._client.on_message = lambda _client, _data, message: self.received.append(
            (message.topic, json.loads(message.payload))
        )
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        until(lambda: ready, what="the subscription")

    def __enter__(self) -> "Subscriber":
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()
