"""Messages to a real broker, which comes and goes."""

import subprocess
from pathlib import Path

import pytest

from stdeploy.errors import SpecError
from stdeploy.events.mqtt import MqttSettings
from stdeploy.events.sink import Message, RefusedError, TryAgainError
from tests.events.feeding import feed_events, pipeline
from tests.helpers.receivers import Subscriber, broker, certificate_of_localhost, free_port, until

pytest.importorskip("paho.mqtt.client")

MESSAGE = Message("e1.start", b'{"source": "a/b+c#", "rule": "fight", "kind": "start"}')


def sink(port: int, **fields: object):
    settings = {"host": "localhost", "port": port, "timeout_seconds": 3, **fields}
    return MqttSettings.parse(settings).open("broker")


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_a_message_goes_to_its_topic(tmp_path: Path, protocol: str) -> None:
    port = free_port()
    with broker(tmp_path, port), Subscriber(port) as subscriber:
        publishing = sink(port, protocol=protocol)
        publishing.deliver(MESSAGE)
        until(lambda: subscriber.received)
        publishing.close()
    assert subscriber.received == [("stdeploy/a-b-c-/fight/start", MESSAGE.record)]


def test_a_broker_that_is_started_again_loses_nothing(tmp_path: Path) -> None:
    port = free_port()
    mqtt = {"kind": "mqtt", "host": "127.0.0.1", "port": port, "topic": "{source}/{kind}"}
    mqtt |= {"longest_pause_seconds": 0.5, "timeout_seconds": 1}
    told: list[str] = []
    with pipeline(tmp_path, mqtt, report=told.append) as events:
        with broker(tmp_path, port), Subscriber(port) as subscriber:
            ids = feed_events(events, 3)
            until(lambda: len(subscriber.received) == 6)
        ids += feed_events(events, 5, first=3)
        until(lambda: events.counts().sinks["mqtt"].retried >= 1)
        received = list(subscriber.received)
        with broker(tmp_path, port), Subscriber(port) as subscriber:
            ids += feed_events(events, 2, first=8)
            until(lambda: len({m["id"] for _, m in received + subscriber.received}) == 20)
            until(lambda: events.counts().sinks["mqtt"].queued == 0)
        received += subscriber.received
        counts = events.counts().sinks["mqtt"]
    assert list(dict.fromkeys(message["id"] for _, message in received)) == ids
    assert {topic for topic, _ in received} == {"door/start", "door/end"}
    assert (counts.delivered, counts.dropped, counts.dead) == (20, 0, 0)
    assert "messages get through again" in told[-1]


def test_a_broker_that_does_not_acknowledge_is_not_told_twice(tmp_path: Path) -> None:
    """What paho has taken it sends again by itself."""
    port = free_port()
    with broker(tmp_path, port) as running, Subscriber(port) as subscriber:
        publishing = sink(port, timeout_seconds=1)
        publishing.deliver(MESSAGE)
        subprocess.run(["kill", "-STOP", str(running.pid)], check=True)
        for _ in range(2):
            with pytest.raises(TryAgainError, match=r"has not acknowledged it"):
                publishing.deliver(Message("e2", MESSAGE.body))
        subprocess.run(["kill", "-CONT", str(running.pid)], check=True)
        publishing.deliver(Message("e2", MESSAGE.body))
        until(lambda: len(subscriber.received) == 2)
        publishing.deliver(Message("e3", MESSAGE.body))
        until(lambda: len(subscriber.received) == 3)
        publishing.close()


def test_a_password_is_wanted_and_given(tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "password").write_text("s3cret\n")
    known = ["mosquitto_passwd", "-b", "-c", tmp_path / "users", "me", "s3cret"]
    settings = ("allow_anonymous false", f"password_file {tmp_path / 'users'}")
    try:
        subprocess.run(known, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("mosquitto_passwd is not installed")
    with broker(tmp_path, port, *settings):
        with pytest.raises(TryAgainError, match=r"refuses the connection: Not authorized"):
            sink(port).deliver(MESSAGE)
        publishing = sink(port, user="me", password_file=tmp_path / "password")
        publishing.deliver(MESSAGE)
        publishing.close()


def test_a_topic_that_is_not_allowed_is_refused(tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "rights").write_text("topic write allowed/#\n")
    with broker(tmp_path, port, f"acl_file {tmp_path / 'rights'}"):
        publishing = sink(port, topic="other/{kind}")
        with pytest.raises(RefusedError, match=r"answered: Not authorized"):
            publishing.deliver(MESSAGE)
        publishing.close()


# paho leaves the socket of a connection that was not verified to Python to close.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_broker_is_verified(tmp_path: Path) -> None:
    certificate, key = certificate_of_localhost(tmp_path)
    port = free_port()
    files = (f"certfile {certificate}", f"keyfile {key}")
    with broker(tmp_path, port, *files):
        publishing = sink(port, tls=True, ca_file=certificate)
        publishing.deliver(MESSAGE)
        publishing.close()
        strict = sink(port, tls=True, timeout_seconds=1)
        with pytest.raises(TryAgainError, match=r"there is no connection to it"):
            strict.deliver(MESSAGE)
        strict.close()


def test_nobody_there_is_told_in_words() -> None:
    port = free_port()
    publishing = sink(port, timeout_seconds=0.3)
    with pytest.raises(TryAgainError, match=rf"localhost:{port}: there is no connection to it"):
        publishing.deliver(MESSAGE)
    publishing.close()


def test_certificates_that_are_none_are_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nothing")
    with pytest.raises(SpecError, match=r"sink 'broker': the certificates cannot be used"):
        sink(8883, tls=True, ca_file=tmp_path / "ca.pem")
    with pytest.raises(SpecError, match=r"ca_file = .*nowhere.pem' does not exist"):
        sink(8883, tls=True, ca_file=tmp_path / "nowhere.pem")
