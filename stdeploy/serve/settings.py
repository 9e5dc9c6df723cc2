"""All settings of the server: each one a flag, an environment variable and a key of a TOML file."""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator

from stdeploy.errors import SpecError
from stdeploy.runtime.base import Backend, Device, RuntimeOptions
from stdeploy.spec import Precision
from stdeploy.video.limits import Limits

ENV_PREFIX = "STDEPLOY_SERVE_"
_MIB = 2**20


class ServeSettings(BaseModel):
    """What `stdeploy serve` can be told; the description of a field is the help of its flag.

    A flag goes before the environment variable STDEPLOY_SERVE_<NAME>, that before the TOML file,
    and that before the default.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    # What answers
    model: Path | None = Field(
        None, description="Default: the newest *.onnx; on GPU hosts also *.engine."
    )
    backend: Backend = Field("auto", description="auto: see stdeploy doctor.")
    device: Device = Field("auto", description="cuda is refused where it cannot be had.")
    precision: Precision | None = Field(None, description="Default: the artifact's.")
    allow_cpu: bool = Field(False, description="Run on the CPU where the GPU cannot be used.")
    threads: int | None = Field(None, ge=1, description="CPU threads. Default: the backend's.")
    rebuild: bool = Field(False, description="Build an engine that does not fit this host again.")
    views: int | None = Field(
        None, ge=1, le=64, description="Clips averaged per video. Default: the model's."
    )
    max_batch: int | None = Field(
        None,
        ge=1,
        le=256,
        description="Clips that go through the network together. Default: 8 on a GPU, 1 on a CPU.",
    )
    max_delay_ms: float = Field(
        5.0, ge=0, le=1000, description="A clip waits so long for company at most."
    )

    # Where
    host: str = Field("127.0.0.1", description="0.0.0.0 for all networks.")
    port: int = Field(8000, ge=0, le=65535, description="0 takes a free one.")
    metrics_port: int | None = Field(
        None, ge=0, le=65535, description="Metrics and probes on a port of their own."
    )
    tls_certificate: Path | None = Field(None, description="A PEM file; with its key: HTTPS.")
    tls_key: Path | None = Field(None, description="A PEM file.")
    forwarded_allow_ips: str = Field(
        "127.0.0.1", description="Proxies whose X-Forwarded-For is believed."
    )
    api_key: SecretStr | None = Field(
        None, description="Requests have to carry it. Better in the environment or a file."
    )
    api_key_file: Path | None = Field(None, description="A file that holds it.")

    # How much
    decode_workers: int | None = Field(
        None,
        ge=2,
        le=256,
        description="Videos decoded at once, half of them timelines. Default: 1 a processor, "
        "2 to 8.",
    )
    max_requests: int = Field(64, ge=1, description="Requests in the house; more get a 503.")
    max_connections: int = Field(512, ge=1, description="Open connections; more are closed.")
    max_header_bytes: int = Field(16_384, ge=1024, description="Of the head of a request.")
    max_body_bytes: int = Field(128 * _MIB, ge=1024, description="More gets a 413.")
    max_held_bytes: int = Field(
        4096 * _MIB, ge=1024, description="Of all uploads at once; more gets a 503."
    )
    max_duration_seconds: float = Field(3600.0, gt=0, description="Of a video.")
    max_pixels: int = Field(7680 * 4320, ge=1, description="Of a frame, width x height.")
    max_frames: int = Field(250_000, ge=1, description="Of a video.")
    decode_memory_bytes: int = Field(
        2048 * _MIB, ge=256 * _MIB, description="Address space of a decoding process."
    )

    # How long
    header_seconds: float = Field(10.0, gt=0, description="For the head of a request, else 408.")
    upload_seconds: float = Field(60.0, gt=0, description="For its body, else 408.")
    request_seconds: float = Field(60.0, gt=0, description="From then to the answer, else 504.")
    stream_seconds: float = Field(600.0, gt=0, description="The same, of a timeline.")
    network_seconds: float = Field(
        300.0, gt=0, description="A batch that takes longer means that the network hangs."
    )
    drain_seconds: float = Field(30.0, ge=0, description="To answer what is inside, after SIGTERM.")
    keep_alive_seconds: int = Field(5, ge=1, description="An idle connection is kept so long.")

    # What else
    upload_folder: Path | None = Field(
        None, description="Default: a private folder in the system's temporary folder."
    )
    log_format: Literal["auto", "json", "text"] = Field(
        "auto", description="auto: text on a terminal, else JSON."
    )
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key go together")
        if self.api_key is not None and self.api_key_file is not None:
            raise ValueError("give api_key or api_key_file, not both")
        return self

    def key(self) -> str | None:
        """The API key, if one is asked for.

        Raises:
            SpecError: its file cannot be read, or holds none.
        """
        if self.api_key is not None:
            key, where = self.api_key.get_secret_value().strip(), "api_key"
        elif self.api_key_file is None:
            return None
        else:
            where = f"api_key_file {str(self.api_key_file)!r}"
            try:
                key = self.api_key_file.read_text().strip()
            except (OSError, UnicodeDecodeError) as error:
                raise SpecError(f"{where} cannot be read") from error
        if not key or not key.isascii() or not key.isprintable():
            raise SpecError(f"{where} is empty, or holds other signs than printable ASCII")
        return key

    @property
    def workers(self) -> int:
        """Videos decoded at once."""
        return self.decode_workers or max(2, min(8, os.cpu_count() or 1))

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


def load(flags: Mapping[str, Any], file: Path | None) -> ServeSettings:
    """Put all sources together.

    Args:
        flags: those that were typed, by name.
        file: a TOML file.

    Raises:
        SpecError: a setting that is not there or not allowed; the message names it.
    """
    # Only here: the command line has the flags without the extra that brings this package.
    from pydantic_settings import BaseSettings, InitSettingsSource, SettingsConfigDict
    from pydantic_settings.sources import PydanticBaseSettingsSource

    from_file = _from_toml(file) if file is not None else {}
    _check_environment()

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

    try:
        settings = ServeSettings(**dict(FromAll(**flags)))
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            message = f"there is no such setting; there are {_NAMES}"
        value = f" = {first['input']!r}" if name and "key" not in name else ""
        raise SpecError(f"settings of the server: {name}{value}: {message}") from error
    settings.key()  # now, not when the model has been opened
    return settings


_NAMES = ", ".join(ServeSettings.model_fields)


def _from_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text())
    except OSError as error:
        raise SpecError(f"{str(file)!r} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SpecError(f"{str(file)!r} is no TOML: {error}") from error


def _check_environment() -> None:
    """A misspelt variable would otherwise be passed over in silence.

    Raises:
        SpecError: there is one.
    """
    for name in os.environ:
        field = name.removeprefix(ENV_PREFIX).lower()
        if name.startswith(ENV_PREFIX) and field not in ServeSettings.model_fields:
            raise SpecError(f"{name}: there is no such setting; there are {_NAMES}")
