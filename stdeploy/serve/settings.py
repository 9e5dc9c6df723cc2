"""All settings of the server: each one a flag, an environment variable and a key of a TOML file."""

import difflib
import ipaddress
import os
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Self, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator

from stdeploy.artifacts.frames import DecoderName
from stdeploy.artifacts.spec import Precision
from stdeploy.artifacts.values import parsed
from stdeploy.backends.base import Backend, Device, RuntimeOptions
from stdeploy.errors import SpecError
from stdeploy.serve.admission import ANY_HOST, AllowedHosts, is_host_name
from stdeploy.video.limits import Limits

ENV_PREFIX = "STDEPLOY_SERVE_"
# The first setting of each group, and its heading in the help.
GROUPS: Mapping[str, str] = MappingProxyType(
    {
        "model": "What answers",
        "host": "Where",
        "decode_workers": "How much",
        "header_seconds": "How long",
        "upload_folder": "What else",
    }
)
_MIB = 2**20


class WrongSettingsError(SpecError, ValueError):
    """Settings that are wrong together, or hold what cannot be used.

    Args:
        sentence: what is wrong, with {} for each setting.
        names: of these settings.
    """

    def __init__(self, sentence: str, *names: str) -> None:
        super().__init__(sentence.format(*names))
        self._sentence = sentence
        self._names = names

    def told(self, written: Callable[[str], str]) -> str:
        """The sentence, with each setting as the user wrote it."""
        return self._sentence.format(*map(written, self._names))


class ServeSettings(BaseModel):
    """What `stdeploy serve` can be told; the description of a field is the help of its flag.

    A flag goes before the environment variable STDEPLOY_SERVE_<NAME>, that before the TOML file,
    and that before the default.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    model: Path | None = Field(None, description="The same as the argument.")
    backend: Backend = Field("auto", description="auto: see stdeploy doctor.")
    device: Device = Field("auto", description="cuda is refused where it cannot be had.")
    precision: Precision | None = Field(None, description="Default: the artifact's.")
    allow_cpu: bool = Field(False, description="Run on the CPU where the GPU cannot be used.")
    threads: int | None = Field(None, ge=1, description="Of the CPU. Default: the backend's.")
    rebuild: bool = Field(False, description="Build an engine that does not fit here again.")
    views: int | None = Field(
        None, ge=1, le=64, description="Clips averaged per video. Default: the model's."
    )
    reader: DecoderName = Field(
        "auto",
        description="nvdec: videos are decoded on an NVIDIA GPU; auto: large ones, where it can.",
    )
    max_batch: int | None = Field(
        None,
        ge=1,
        le=256,
        description="Clips in the network at once. Default: 8 on a GPU, 1 on a CPU.",
    )
    max_delay_ms: float = Field(
        5.0, ge=0, le=1000, description="How long a clip waits for others, at most."
    )

    host: str = Field("127.0.0.1", description="0.0.0.0 for all networks.")
    port: int = Field(8000, ge=0, le=65535, description="0 takes a free one.")
    metrics_port: int | None = Field(
        None, ge=0, le=65535, description="Metrics and probes on a port of their own."
    )
    tls_certificate: Path | None = Field(None, description="A PEM file; with its key: HTTPS.")
    tls_key: Path | None = Field(None, description="A PEM file.")
    allowed_hosts: str | None = Field(
        None,
        description="Names by which it may be asked, beside localhost and addresses: "
        "videos.example.com,*.lan or * for any.",
    )
    forwarded_allow_ips: str = Field(
        "127.0.0.1",
        description="Proxies whose X-Forwarded-For is believed: addresses, networks, or * for any.",
    )
    api_key: SecretStr | None = Field(
        None, description="A key that requests have to carry; safer in a file."
    )
    api_key_file: Path | None = Field(None, description="A file that holds it.")

    decode_workers: int | None = Field(
        None,
        ge=2,
        le=256,
        description="Videos decoded at once, half of them timelines. Default: 1 a processor, "
        "2 to 16.",
    )
    max_requests: int = Field(64, ge=1, description="Requests inside; more get a 503.")
    max_connections: int = Field(512, ge=1, description="Open connections; more are closed.")
    max_header_bytes: int = Field(16_384, ge=1024, description="Of the head of a request.")
    max_body_bytes: int = Field(128 * _MIB, ge=1024, description="Of an upload; more gets a 413.")
    max_held_bytes: int = Field(
        4096 * _MIB, ge=1024, description="Of all uploads at once; more gets a 503."
    )
    max_duration_seconds: float = Field(3600.0, gt=0, description="Of a video.")
    max_pixels: int = Field(7680 * 4320, ge=1, description="Of a frame, width x height.")
    max_frames: int = Field(250_000, ge=1, description="Of a video.")
    decode_memory_bytes: int = Field(
        2048 * _MIB, ge=256 * _MIB, description="Address space of a decoding process."
    )

    header_seconds: float = Field(10.0, gt=0, description="For the head of a request, else 408.")
    upload_seconds: float = Field(60.0, gt=0, description="For its body, else 408.")
    min_upload_bytes_per_second: int = Field(
        1024, ge=0, description="A body that comes slower, after 5 s, gets a 408."
    )
    request_seconds: float = Field(60.0, gt=0, description="From then to the answer, else 504.")
    stream_seconds: float = Field(600.0, gt=0, description="The same, of a timeline.")
    network_seconds: float = Field(
        300.0, gt=0, description="A batch that takes longer: the network hangs."
    )
    drain_seconds: float = Field(30.0, ge=0, description="To answer what is inside, after SIGTERM.")
    keep_alive_seconds: int = Field(5, ge=1, description="How long an idle connection is kept.")

    upload_folder: Path | None = Field(
        None, description="Default: a private one in the system's temporary folder."
    )
    log_format: Literal["auto", "json", "text"] = Field(
        "auto", description="auto: text on a terminal, else JSON."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Of the least important line."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for one, other in (("tls_key", "tls_certificate"), ("tls_certificate", "tls_key")):
            if getattr(self, one) is not None and getattr(self, other) is None:
                raise WrongSettingsError("{} needs {} beside it; HTTPS takes both", one, other)
        if self.api_key is not None and self.api_key_file is not None:
            raise WrongSettingsError(
                "{} and {} both give a key; leave one of them out", "api_key_file", "api_key"
            )
        if self.metrics_port and self.metrics_port == self.port:
            raise WrongSettingsError(
                "{} and {} are the same port; give metrics one of their own, or leave it out",
                "metrics_port",
                "port",
            )
        for name in _listed(self.allowed_hosts or ""):
            if not is_host_name(name):
                raise WrongSettingsError(
                    f"{{}}: {_shown(name)} is no name of a host; names such as videos.example.com "
                    "or *.lan are allowed, with commas between them, or * for any",
                    "allowed_hosts",
                )
        for proxy in _listed(self.forwarded_allow_ips):
            if not _is_proxy(proxy):
                raise WrongSettingsError(
                    f"{{}}: {_shown(proxy)} is neither an address nor a network (10.0.0.0/8); "
                    "these are allowed, with commas between them, or * for any",
                    "forwarded_allow_ips",
                )
        return self

    @property
    def hosts(self) -> AllowedHosts:
        """Names by which the server may be asked."""
        # Where it listens is a name of it, if it is a name.
        return AllowedHosts((*_listed(self.allowed_hosts or ""), self.host))

    def key(self) -> str | None:
        """The API key, if one is asked for.

        Raises:
            WrongSettingsError: its file cannot be read, or holds none.
        """
        if self.api_key is not None:
            key, name = self.api_key.get_secret_value().strip(), "api_key"
        elif self.api_key_file is None:
            return None
        else:
            name = "api_key_file"
            try:
                key = self.api_key_file.read_text().strip()
            except (OSError, UnicodeDecodeError) as error:
                reason = error.strerror if isinstance(error, OSError) else "it is no text"
                raise WrongSettingsError(f"{{}} cannot be read: {reason}", name) from error
        if not key or not key.isascii() or not key.isprintable():
            raise WrongSettingsError("{} is empty, or holds other signs than printable ASCII", name)
        return key

    @property
    def workers(self) -> int:
        """Videos decoded at once."""
        return self.decode_workers or max(2, min(16, os.cpu_count() or 1))

    @property
    def runtime_options(self) -> RuntimeOptions:
        """Backend, device and precision."""
        return RuntimeOptions(
            backend=self.backend,
            device=self.device,
            precision=self.precision,
            allow_cpu=self.allow_cpu,
            threads=self.threads,
            rebuild=self.rebuild,
        )

    @property
    def limits(self) -> Limits:
        """What one video may hold and cost."""
        longest = max(self.request_seconds, self.stream_seconds)
        return Limits(
            pixels=self.max_pixels,
            frames=self.max_frames,
            seconds=self.max_duration_seconds,
            memory_bytes=self.decode_memory_bytes,
            cpu_seconds=int(longest) + 1,
            wall_seconds=longest,
        )


def _listed(text: str) -> tuple[str, ...]:
    """What stands between the commas."""
    return tuple(word for word in map(str.strip, text.split(",")) if word)


def _is_proxy(text: str) -> bool:
    try:
        ipaddress.ip_network(text)
    except ValueError:
        return text == ANY_HOST
    return True


def _shown(text: str) -> str:
    """A text in a sentence of `WrongSettingsError`, where braces mean settings."""
    return repr(text).replace("{", "{{").replace("}", "}}")


def load(flags: Mapping[str, Any], file: Path | None) -> ServeSettings:
    """Put all sources together.

    Args:
        flags: those that were typed, by name.
        file: a TOML file.

    Raises:
        SpecError: a setting that is not there or not allowed; the message says where it stands.
    """
    # Only here: the command line has the flags without the extra that brings this package.
    from pydantic_settings import BaseSettings, InitSettingsSource, SettingsConfigDict
    from pydantic_settings.sources import PydanticBaseSettingsSource

    from_file = _from_toml(file) if file is not None else {}
    variables = {name: text for name, text in os.environ.items() if name.startswith(ENV_PREFIX)}
    _check_names(variables, prefix=ENV_PREFIX)
    _check_names(from_file, place=f" in {str(file)!r}")

    class FromAll(ServeSettings, BaseSettings):
        model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, env_ignore_empty=True)

        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
            file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return init_settings, env_settings, InitSettingsSource(settings_cls, from_file)

    def written(name: str) -> str:
        """A setting as the user wrote it, where it came from; its flag where it came from none."""
        field = ServeSettings.model_fields[name]
        flag, variable = f"--{name.replace('_', '-')}", ENV_PREFIX + name.upper()
        secret = kind_of(name) is SecretStr
        if name in flags:
            return flag if secret else f"{flag} {flags[name]}"
        if variables.get(variable):
            return variable if secret else f"{variable}={variables[variable]}"
        if name in from_file:
            value = "" if secret else f" = {from_file[name]!r}"
            return f"{name}{value} in {str(file)!r}"
        return flag if field.default is None else f"{flag} {field.default} (the default)"

    try:
        settings = ServeSettings(**dict(FromAll(**flags)))
        settings.key()  # now, not when the model has been opened
    except WrongSettingsError as error:
        raise SpecError(error.told(written)) from error
    except ValidationError as error:
        first = error.errors()[0]
        wrong = first.get("ctx", {}).get("error")
        if isinstance(wrong, WrongSettingsError):
            raise SpecError(wrong.told(written)) from error
        name = str(first["loc"][0])
        finite = first["type"] == "finite_number"
        raise SpecError(f"{written(name)}: {_allowed(name, finite=finite)} is allowed") from error
    return settings


def _from_toml(file: Path) -> dict[str, Any]:
    try:
        return parsed(tomllib.loads, file.read_text())  # type: ignore[no-any-return]
    except OSError as error:
        raise SpecError(f"{str(file)!r} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise SpecError(f"{str(file)!r} is no TOML: {error}") from error


def _check_names(given: Iterable[str], *, prefix: str = "", place: str = "") -> None:
    """A misspelt variable or key would otherwise be passed over in silence.

    Args:
        given: variables or keys.
        prefix: of variables, whose names are in capitals.
        place: where they stand, for the message.

    Raises:
        SpecError: one names no setting.
    """

    def spelt(name: str) -> str:
        return prefix + name.upper() if prefix else name

    known = [spelt(name) for name in ServeSettings.model_fields]
    for each in given:
        if each not in known:
            name = each.removeprefix(prefix).lower()
            near = difflib.get_close_matches(name, ServeSettings.model_fields, n=1)
            hint = f"did you mean {spelt(near[0])}?" if near else "see stdeploy serve --help"
            raise SpecError(f"{each}{place} is no setting of the server; {hint}")


def choices(name: str) -> tuple[str, ...]:
    """The words that a setting may be; none where it is no choice of words."""
    kind = kind_of(name)
    return get_args(kind) if get_origin(kind) is Literal else ()


def kind_of(name: str) -> Any:
    """The type of a setting, without the None that stands for its default."""
    kind = ServeSettings.model_fields[name].annotation
    given = [each for each in get_args(kind) if each is not type(None)]
    return given[0] if type(None) in get_args(kind) else kind


def _allowed(name: str, *, finite: bool) -> str:
    """What a setting may be, in words.

    Args:
        name: of the setting.
        finite: whether to say that a number has to be finite.

    >>> _allowed("max_batch", finite=False), _allowed("device", finite=False)
    ('a whole number from 1 to 256', 'auto, cpu or cuda')
    """
    if words := choices(name):
        return f"{', '.join(words[:-1])} or {words[-1]}"
    kinds = {bool: "true or false", int: "a whole number", float: "a number"}
    what = "a finite number" if finite else kinds.get(kind_of(name), "text")
    bounds: dict[str, Any] = {}
    for bound in ServeSettings.model_fields[name].metadata:
        bounds |= {
            sign: getattr(bound, sign) for sign in ("ge", "gt", "le") if hasattr(bound, sign)
        }
    if "gt" in bounds:
        return f"{what} above {bounds['gt']}"
    if "le" in bounds:
        return f"{what} from {bounds['ge']} to {bounds['le']}"
    return f"{what}, {bounds['ge']} or more" if bounds else what
