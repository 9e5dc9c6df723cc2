"""Every way in which a request is not answered, as status, code and sentence."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from stdeploy.serve import logs
from stdeploy.serve.schemas import STATUS, ClassifyOptions, as_json

_KINDS = {"integer": "a whole number", "number": "a number", "boolean": "true or false"}
MOST_SHOWN = 100  # characters of what a client sent


def in_words(found: Mapping[str, Any]) -> str:
    """An error of `ClassifyOptions` as a sentence: which option, its value, what is allowed.

    Example: "views = '1000': a whole number from 1 to 64 is allowed".
    """
    name = str(found["loc"][-1])[:MOST_SHOWN]
    options = ClassifyOptions.model_json_schema()["properties"]
    if name not in options:
        return f"there is no option {name!r}; there are {', '.join(options)}"
    schema = options[name]
    schema = schema.get("anyOf", [schema])[0]
    allowed = _KINDS[schema["type"]]
    if "maximum" in schema:
        allowed += f" from {schema['minimum']:g} to {schema['maximum']:g}"
    elif "minimum" in schema:
        allowed += f" of at least {schema['minimum']:g}"
    return f"{name} = {str(found['input'])[:MOST_SHOWN]!r}: {allowed} is allowed"


class RequestError(Exception):
    """A request that gets an error for an answer.

    Args:
        code: one of `STATUS`.
        sentence: what was wrong, the value, what is allowed; no path of this host.
        retry_after_seconds: when to ask again.
        headers: of the answer, beside those that go with the code.
    """

    def __init__(
        self,
        code: str,
        sentence: str,
        *,
        retry_after_seconds: int | None = None,
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        super().__init__(sentence)
        self.code = code
        self.status = STATUS[code]
        self.sentence = sentence
        self.retry_after_seconds = retry_after_seconds
        self._headers = headers

    @property
    def body(self) -> bytes:
        """Of the answer; "error" is what the Open Inference Protocol asks for."""
        return error_json(self.sentence, self.code)

    @property
    def headers(self) -> dict[str, str]:
        """Of the answer."""
        headers = {"Content-Type": "application/json", **self._headers}
        if self.retry_after_seconds is not None:
            headers["Retry-After"] = str(self.retry_after_seconds)
        if self.code == "unauthorized":
            headers["WWW-Authenticate"] = "Bearer"
        return headers


def error_json(sentence: str, code: str, request_id: str | None = None) -> bytes:
    """An error as JSON, with the id of the request; by default of that which is answered here."""
    return as_json(
        {"error": sentence, "code": code, "request_id": request_id or logs.request_id.get()}
    )


def given_twice(option: str) -> RequestError:
    """The refusal of an option that stands twice: two programs could each take another one."""
    return RequestError("invalid", f"{option[:MOST_SHOWN]} is given twice; give it once")
