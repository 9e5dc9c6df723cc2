"""stdeploy serve: actions over HTTP."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Union

import typer
from pydantic import SecretStr

from stdeploy.cli.console import note
from stdeploy.cli.inputs import default_artifact
from stdeploy.errors import require
from stdeploy.serve.settings import ServeSettings


def _serve(config: Path | None, **flags: Any) -> None:
    """Answer over HTTP what happens in videos, with a page to try it.

    Every option is also an environment variable, STDEPLOY_SERVE_MAX_BATCH for --max-batch, and a
    key of the TOML file of --config: max_batch = 8. On SIGTERM or Ctrl-C it answers what it has
    taken, and ends.
    """
    for module in ("fastapi", "fastapi_offline", "uvicorn", "pydantic_settings"):
        require(module, extra="serve", purpose="serving")
    from stdeploy.serve import logs
    from stdeploy.serve.server import serve
    from stdeploy.serve.settings import load

    settings = load({name: flag for name, flag in flags.items() if flag is not None}, config)
    artifact = settings.model or default_artifact()
    logs.set_up(settings.log_format, settings.log_level)
    serve(
        settings,
        artifact,
        listening=lambda url: note(f"{artifact} at {url}  (Ctrl-C ends it)"),
    )


def _with_flags(function: Callable[..., None]) -> Callable[..., None]:
    """Give the verb a flag for each setting, so that each is written down once."""
    config = Annotated[
        Path | None, typer.Option("--config", help="A TOML file of settings.", show_default=False)
    ]
    parameters: dict[str, Any] = {"config": config}
    for name, field in ServeSettings.model_fields.items():
        kind = str if SecretStr in getattr(field.annotation, "__args__", ()) else field.annotation
        flag = f"--{name.replace('_', '-')}"
        names = [f"{flag}/--no-{flag.removeprefix('--')}"] if kind is bool else [flag]
        option = typer.Option(
            *names,
            *(["-m"] if name == "model" else []),
            help=field.description,
            show_default=False if field.default in (None, False) else str(field.default),
        )
        parameters[name] = Annotated[Union[kind, None], option]  # noqa: UP007
    function.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=kind, default=None)
            for name, kind in parameters.items()
        ]
    )
    function.__annotations__ = parameters
    return function


command = _with_flags(_serve)
