"""A sink: each message as an HTTP POST, signed as the Standard Webhooks specification says.

https://github.com/standard-webhooks/standard-webhooks: the headers webhook-id, webhook-timestamp
and webhook-signature, an HMAC-SHA256 over `id.timestamp.body`; there are libraries that verify it.
"""

import base64
import binascii
import email.utils
import hashlib
import hmac
import re
import time
import urllib.parse
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field, FiniteFloat, field_validator

from stdeploy.errors import SpecError
from stdeploy.events.sink import Message, QueuedSettings, RefusedError, Sink, TryAgainError, secret
from stdeploy.optional_packages import require

if TYPE_CHECKING:
    import urllib3

_PREFIX = "whsec_"  # of secrets in base64, by the specification
_LONGEST_WAIT_SECONDS = 300.0  # that a receiver can ask for
_MOST_READ = 65536  # bytes of an answer; its words do not matter
_LATER = (408, 425, 429)  # and what is 500 or more


class WebhookSettings(QueuedSettings):
    """An HTTP POST for each message.

    Attributes:
        url: where to; https is verified by the system's certificates, or `ca_file`.
        timeout_seconds: for connecting, for each part of the head of the answer, and for its body.
        secret_file: holds the secret that messages are signed with.
        secret_variable: the environment variable that holds it.
        token_file: holds a token for the header Authorization: Bearer.
        token_variable: the environment variable that holds it.
        ca_file: certificates to verify the receiver by, PEM.
    """

    url: str
    timeout_seconds: FiniteFloat = Field(default=10.0, gt=0)
    secret_file: Path | None = None
    secret_variable: str | None = None
    token_file: Path | None = None
    token_variable: str | None = None
    ca_file: Path | None = None

    @field_validator("url")
    @classmethod
    def _is_http(cls, url: str) -> str:
        wanted = "an address such as https://example.com/events is wanted"
        try:
            parts = urllib.parse.urlsplit(url)
            port = parts.port
        except ValueError as error:  # brackets that do not close, a port above 65535
            raise ValueError(wanted) from error
        of_the_web = parts.scheme in ("http", "https") and parts.hostname and port != 0
        if not of_the_web or re.search(r"\s", url):
            raise ValueError(wanted)
        if "@" in parts.netloc:
            raise ValueError("no password in an address; give a token by token_file")
        return url

    def open(self, name: str) -> Sink:
        """See `QueuedSettings.open`."""
        place = f"sink {name!r}"
        require("urllib3", extra="webhook", purpose=f"a webhook ({place})")
        key = secret(self.secret_file, self.secret_variable, place=f"{place}: the secret")
        token = secret(self.token_file, self.token_variable, place=f"{place}: the token")
        if self.ca_file is not None and not self.ca_file.is_file():
            raise SpecError(f"{place}: ca_file = {str(self.ca_file)!r} does not exist")
        return Webhook(self, None if key is None else _key(key, place), token)


def _key(text: str, place: str) -> bytes:
    """The bytes of a secret: base64 after whsec_, else the text itself.

    Raises:
        SpecError: no base64 after whsec_.
    """
    if not text.startswith(_PREFIX):
        return text.encode()
    try:
        return base64.b64decode(text.removeprefix(_PREFIX), validate=True)
    except binascii.Error as error:
        raise SpecError(f"{place}: the secret has no base64 after {_PREFIX}") from error


def signature(key: bytes, message_id: str, timestamp: int, body: bytes) -> str:
    """What the header webhook-signature holds.

    Args:
        key: bytes of the secret.
        message_id: header webhook-id.
        timestamp: header webhook-timestamp, seconds since 1970.
        body: of the request.
    """
    signed = b".".join([message_id.encode(), str(timestamp).encode(), body])
    return "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()


class Webhook(Sink):
    """Posts over one connection that is kept, without following redirections.

    Args:
        settings: where to, and how long to wait.
        key: what messages are signed with; None for no signature.
        token: of the header Authorization; None for none.
    """

    def __init__(self, settings: WebhookSettings, key: bytes | None, token: str | None) -> None:
        import urllib3

        self._url, self._key = settings.url, key
        self._timeout_seconds = settings.timeout_seconds
        self._headers = {"content-type": "application/json", "user-agent": "stdeploy"}
        if token is not None:
            self._headers["authorization"] = f"Bearer {token}"
        self._pool = urllib3.PoolManager(
            num_pools=1,
            retries=False,
            timeout=urllib3.Timeout(
                connect=settings.timeout_seconds, read=settings.timeout_seconds
            ),
            cert_reqs="CERT_REQUIRED",
            ca_certs=None if settings.ca_file is None else str(settings.ca_file),
        )

    def deliver(self, message: Message) -> None:
        """See `Sink.deliver`."""
        import urllib3

        now = int(time.time())
        headers = {
            **self._headers,
            "webhook-id": message.id,
            "webhook-timestamp": str(now),
            "idempotency-key": message.id,
        }
        if self._key is not None:
            headers["webhook-signature"] = signature(self._key, message.id, now, message.body)
        try:
            answer = self._pool.request(
                "POST",
                self._url,
                body=message.body,
                headers=headers,
                redirect=False,
                preload_content=False,  # however much it says
            )
        except urllib3.exceptions.HTTPError as error:
            raise TryAgainError(_in_words(error)) from error
        self._finish(answer)
        self._judge(answer)

    def close(self) -> None:
        """See `Sink.close`."""
        self._pool.clear()

    def _finish(self, answer: "urllib3.BaseHTTPResponse") -> None:
        """Keep the connection where little was answered, and soon; else close it."""
        import urllib3

        end = time.monotonic() + self._timeout_seconds
        left, whole = _MOST_READ, False
        try:
            # One piece at a time: the time limit of urllib3 is that of a piece.
            while left > 0 and time.monotonic() < end:
                part = answer.read1(left, decode_content=False)
                left -= len(part)
                if not part:
                    whole = True
                    break
        except urllib3.exceptions.HTTPError:
            pass
        if whole:
            answer.release_conn()
        else:
            answer.close()

    def _judge(self, answer: "urllib3.BaseHTTPResponse") -> None:
        """Whether the receiver has it, by the status."""
        status, wait = answer.status, answer.headers.get("retry-after")
        if 200 <= status < 300:
            return
        if status in _LATER or status >= 500:
            raise TryAgainError(f"HTTP status {status}", _seconds(wait))
        raise RefusedError(f"HTTP status {status}")


def _seconds(retry_after: str | None) -> float | None:
    """What Retry-After asks for: seconds, or a date."""
    if retry_after is None:
        return None
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time()
        except ValueError:
            return None
    return min(max(seconds, 0.0), _LONGEST_WAIT_SECONDS) if seconds == seconds else None


def _in_words(error: Exception) -> str:
    """Without the connection that urllib3 begins with."""
    return re.sub(r"^<?\w+\(host=.*?\): ", "", str(error)) or type(error).__name__
