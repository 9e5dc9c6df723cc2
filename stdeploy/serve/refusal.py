"""Every way in which a request is not answered, as status, code and sentence."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from stdeploy.serve import logs

# Code -> status. The codes are what programs and metrics see; the sentences are for people.
STATUS: Mapping[str, int] = MappingProxyType(
    {
        "bad_request": 400,
        "unauthorized": 401,
        "cross_site": 403,
        "not_found": 404,
        "method_not_allowed": 405,
        "too_slow": 408,
        "too_large": 413,
        "unsupported_type": 415,
        "undecodable": 422,
        "invalid": 422,
        "over_share": 429,
        "failed": 500,
        "full": 503,
        "starting": 503,
        "draining": 503,
        "no_room": 503,
        "no_decoder": 503,
        "deadline": 504,
    }
)


def in_words(found: Mapping[str, Any]) -> str:
    """An error of pydantic as a sentence: which option, its value, what is allowed."""
    name = ".".join(str(part) for part in found["loc"] if part not in ("query", "body", "path"))
    if found["type"] == "extra_forbidden":
        return f"there is no option {name!r}"
    value = str(found.get("input"))[:100]
    return f"{name} = {value!r}: {found['msg']}"


class RefusalError(Exception):
    """A request that gets an error for an answer.

    Args:
        code: one of `STATUS`.
        sentence: what was wrong, the value, what is allowed; no path of this host.
        retry_after_seconds: when to ask again.
    """

    def __init__(self, code: str, sentence: str, *, retry_after_seconds: int | None = None) -> None:
        super().__init__(sentence)
        self.code = code
        self.status = STATUS[code]
        self.sentence = sentence
        self.retry_after_seconds = retry_after_seconds

    def to_record(self) -> dict[str, str | None]:
        """The body of the answer; "error" is what the Open Inference Protocol asks for."""
        return {
            "error": self.sentence,
            "code": self.code,
            "request_id": logs.request_id.get(),
        }

    @property
    def headers(self) -> dict[str, str]:
        """Of the answer."""
        if self.retry_after_seconds is not None:
            return {"Retry-After": str(self.retry_after_seconds)}
        return {"WWW-Authenticate": "Bearer"} if self.code == "unauthorized" else {}
