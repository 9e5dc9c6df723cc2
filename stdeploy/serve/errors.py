"""Every way in which a request is not answered, as status, code and sentence."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel, Field

from stdeploy.serve import monitoring
from stdeploy.serve.schemas import ClassifyOptions, as_json

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
        "unknown_host": 421,
        "undecodable": 422,
        "invalid": 422,
        "over_share": 429,
        "head_too_large": 431,
        "failed": 500,
        "full": 503,
        "starting": 503,
        "draining": 503,
        "no_room": 503,
        "no_decoder": 503,
        "deadline": 504,
    }
)
_KINDS = {"integer": "a whole number", "number": "a number", "boolean": "true or false"}
MOST_SHOWN = 100  # characters of what a client sent


class Error(BaseModel):
    """Why a request was not answered."""

    error: str = Field(description="A sentence for people.")
    code: str = Field(description="A word for programs.", json_schema_extra={"enum": [*STATUS]})
    request_id: str


REFUSED: dict[int | str, dict[str, Any]] = {
    status: {"model": Error, "description": about}
    for status, about in {
        400: "The body is empty, or not what the route takes.",
        401: "The API key is missing or wrong.",
        403: "A page of another site asked.",
        404: "No such route or model.",
        405: "The route takes another method.",
        408: "The body came too slowly.",
        413: "The body is too large.",
        415: "No video by its type or its first bytes, or a body that is compressed.",
        421: "The server goes by another name; see allowed_hosts.",
        422: "No video that can be decoded, or an option that is not allowed.",
        429: "This client takes more than its share.",
        431: "The head of the request is too large.",
        500: "The network failed.",
        503: "Full, starting or stopping; Retry-After says when to ask again.",
        504: "Not ready in time.",
    }.items()
}


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
        {"error": sentence, "code": code, "request_id": request_id or monitoring.request_id.get()}
    )


def given_twice(option: str) -> RequestError:
    """The refusal of an option that stands twice: two programs could each take another one."""
    return RequestError("invalid", f"{option[:MOST_SHOWN]} is given twice; give it once")
