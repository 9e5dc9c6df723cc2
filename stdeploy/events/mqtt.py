"""A sink: each message to an MQTT broker with QoS 1, acknowledged before the next one is sent."""

import string
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, FiniteFloat, field_validator, model_validator

from stdeploy.errors import SpecError
from stdeploy.events.sink import Message, QueuedSettings, RefusedError, Sink, TryAgainError, secret
from stdeploy.optional_packages import require

if TYPE_CHECKING:
    from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags
    from paho.mqtt.properties import Properties
    from paho.mqtt.reasoncodes import ReasonCode

_FIELDS = ("source", "rule", "kind")
_FORBIDDEN = str.maketrans(dict.fromkeys("+#/\0", "-"))  # in one level of a topic
# Of the reason codes of MQTT 5: what another attempt may change. 128 unspecified, 131 specific to
# the broker, 151 quota exceeded.
_MAY_PASS = (128, 131, 151)
_KEEP_ALIVE_SECONDS = 30


class MqttSettings(QueuedSettings):
    """A message to a broker.

    Attributes:
        host: of the broker.
        port: default: 1883, with TLS 8883.
        topic: may hold {source}, {rule} and {kind}; in names + # / become -.
        retain: the broker keeps the last message of each topic for those that subscribe later.
        protocol: "5", or "3.1.1", in which a broker cannot say that it refuses a message.
        client_id: default: the broker chooses.
        user: where the broker wants one.
        password_file: holds the password.
        password_variable: the environment variable that holds it.
        tls: verified by the system's certificates, or `ca_file`.
        ca_file: certificates to verify the broker by, PEM.
        certificate_file: of this client, PEM.
        key_file: its key, PEM.
        timeout_seconds: for connecting, and for the acknowledgement.
    """

    host: str = Field(min_length=1)
    port: int | None = Field(default=None, ge=1, le=65535)
    topic: str = "stdeploy/{source}/{rule}/{kind}"
    retain: bool = False
    protocol: Literal["5", "3.1.1"] = "5"
    client_id: str = ""
    user: str | None = None
    password_file: Path | None = None
    password_variable: str | None = None
    tls: bool = False
    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None
    timeout_seconds: FiniteFloat = Field(default=10.0, gt=0)

    @field_validator("topic")
    @classmethod
    def _is_topic(cls, topic: str) -> str:
        try:
            fields = [
                field for _, field, *_ in string.Formatter().parse(topic) if field is not None
            ]
        except ValueError as error:
            raise ValueError(f"{{ and }} stand around {', '.join(_FIELDS)}: {error}") from error
        wrong = [field for field in fields if field not in _FIELDS]
        if wrong:
            raise ValueError(f"{{{wrong[0]}}} is not known; choose {', '.join(_FIELDS)}")
        if not topic or any(sign in topic for sign in "+#\0"):
            raise ValueError("a topic without + and # is wanted")
        return topic

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        files = (self.ca_file, self.certificate_file, self.key_file)
        if not self.tls and any(file is not None for file in files):
            raise ValueError(
                "certificates are used with tls = true alone; set it, or leave them out"
            )
        if self.key_file is not None and self.certificate_file is None:
            raise ValueError("key_file needs certificate_file beside it")
        if self.user is None and (self.password_file or self.password_variable):
            raise ValueError("a password needs user beside it")
        return self

    def open(self, name: str) -> Sink:
        """See `QueuedSettings.open`."""
        place = f"sink {name!r}"
        require("paho.mqtt.client", extra="mqtt", purpose=f"MQTT ({place})")
        password = secret(
            self.password_file, self.password_variable, place=f"{place}: the password"
        )
        for field in ("ca_file", "certificate_file", "key_file"):
            file: Path | None = getattr(self, field)
            if file is not None and not file.is_file():
                raise SpecError(f"{place}: {field} = {str(file)!r} does not exist")
        return Mqtt(self, password, place)


class Mqtt(Sink):
    """One connection, in a thread of paho's, which opens it again when it breaks.

    Args:
        settings: which broker, and how.
        password: of settings.user.
        place: of the sink in errors.

    Raises:
        SpecError: certificates that are none.
    """

    def __init__(self, settings: MqttSettings, password: str | None, place: str) -> None:
        self._settings = settings
        self._changed = threading.Condition()
        self._why = "no connection yet"
        self._acknowledged: dict[int, ReasonCode] = {}
        self._pending: tuple[str, int] | None = None  # id of a message, and its number at paho
        self._client = _client(settings, password, place)
        self._client.on_connect = self._on_connect
        self._client.on_disconnect = self._on_disconnect
        self._client.on_connect_fail = self._on_connect_fail
        self._client.on_publish = self._on_publish
        port = settings.port or (8883 if settings.tls else 1883)
        self._address = f"{settings.host}:{port}"
        self._client.connect_async(settings.host, port, _KEEP_ALIVE_SECONDS)
        self._client.loop_start()

    def deliver(self, message: Message) -> None:
        """See `Sink.deliver`."""
        deadline = time.monotonic() + self._settings.timeout_seconds
        with self._changed:
            while not self._client.is_connected():
                if not self._changed.wait(deadline - time.monotonic()):
                    raise TryAgainError(f"{self._address}: {self._why}")
        # What paho has, it sends again by itself once it is connected: never give it twice.
        if self._pending is None or self._pending[0] != message.id:
            self._pending = message.id, self._publish(message)
        number = self._pending[1]
        with self._changed:
            while number not in self._acknowledged:
                if not self._changed.wait(deadline - time.monotonic()):
                    raise TryAgainError(f"{self._address} has not acknowledged it")
            reason, self._pending = self._acknowledged.pop(number), None
        if reason.is_failure:
            refused = f"{self._address} answered: {reason}"
            raise (TryAgainError if reason.value in _MAY_PASS else RefusedError)(refused)

    def close(self) -> None:
        """See `Sink.close`."""
        self._client.disconnect()
        self._client.loop_stop()

    def _publish(self, message: Message) -> int:
        record = message.record
        topic = self._settings.topic.format(
            **{field: str(record[field]).translate(_FORBIDDEN) for field in _FIELDS}
        )
        try:
            info = self._client.publish(topic, message.body, qos=1, retain=self._settings.retain)
        except ValueError as error:  # the topic is too long, say
            raise RefusedError(f"topic {topic!r}: {error}") from error
        return info.mid

    def _on_connect(
        self,
        client: "Client",
        userdata: Any,
        flags: "ConnectFlags",
        reason: "ReasonCode",
        properties: "Properties | None",
    ) -> None:
        del client, userdata, flags, properties
        with self._changed:
            self._why = f"the broker refuses the connection: {reason}" if reason.is_failure else ""
            self._changed.notify_all()

    def _on_disconnect(
        self,
        client: "Client",
        userdata: Any,
        flags: "DisconnectFlags",
        reason: "ReasonCode",
        properties: "Properties | None",
    ) -> None:
        del client, userdata, flags, properties
        with self._changed:
            self._why = self._why or f"the connection broke: {reason}"

    def _on_connect_fail(self, client: "Client", userdata: Any) -> None:
        del client, userdata
        with self._changed:
            self._why = "there is no connection to it"

    def _on_publish(
        self,
        client: "Client",
        userdata: Any,
        number: int,
        reason: "ReasonCode",
        properties: "Properties | None",
    ) -> None:
        del client, userdata, properties
        with self._changed:
            self._acknowledged[number] = reason
            self._changed.notify_all()


def _client(settings: MqttSettings, password: str | None, place: str) -> "Client":
    from paho.mqtt import client as paho
    from paho.mqtt.enums import CallbackAPIVersion

    version = paho.MQTTv5 if settings.protocol == "5" else paho.MQTTv311
    client = paho.Client(
        CallbackAPIVersion.VERSION2, client_id=settings.client_id, protocol=version
    )
    client.connect_timeout = settings.timeout_seconds
    client.reconnect_delay_set(1, max(1, round(settings.longest_pause_seconds)))
    if settings.user is not None:
        client.username_pw_set(settings.user, password)
    if settings.tls:
        files = (settings.ca_file, settings.certificate_file, settings.key_file)
        authority, certificate, key = (None if file is None else str(file) for file in files)
        try:
            client.tls_set(authority, certificate, key)
        except OSError as error:  # ssl.SSLError is one
            raise SpecError(f"{place}: the certificates cannot be used: {error}") from error
    return client
