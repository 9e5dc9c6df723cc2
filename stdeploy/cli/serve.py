"""stdeploy serve: actions over HTTP."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Union

import typer
from pydantic import SecretStr

from stdeploy.cli.console import note
from stdeploy.cli.help import METAVARS
from stdeploy.cli.video_arguments import default_artifact
from stdeploy.errors import SpecError
from stdeploy.optional_packages import require
from stdeploy.serve.settings import GROUPS, ServeSettings, choices, kind_of

_MIB = 2**20


def _serve(artifact: Path | None, config: Path | None, **flags: Any) -> None:
    """Answer over HTTP what happens in videos, with a page to try it.

    Each option is also an environment variable (STDEPLOY_SERVE_MAX_BATCH=8 for
    --max-batch 8) and a key of the TOML file of --config (max_batch = 8). A
    flag goes before a variable, that before the file.

    On SIGTERM or Ctrl-C it answers what it has taken, and ends; a second one
    breaks that off.
    """
    for module in ("fastapi", "fastapi_offline", "uvicorn", "pydantic_settings"):
        require(module, extra="serve", purpose="serving")
    from stdeploy.serve import monitoring
    from stdeploy.serve.server import serve
    from stdeploy.serve.settings import load

    typed = {name: flag for name, flag in flags.items() if flag is not None}
    if artifact is not None and typed.setdefault("model", artifact) != artifact:
        raise SpecError(
            f"{str(artifact)!r} and --model {str(typed['model'])!r} are two artifacts; name one"
        )
    settings = load(typed, config)
    model = settings.model or default_artifact()
    monitoring.set_up(settings.log_format, settings.log_level)
    serve(settings, model, say=note)


def _with_flags(function: Callable[..., None]) -> Callable[..., None]:
    """Give the verb a flag for each setting, so that each is written down once."""
    parameters: dict[str, Any] = {
        "artifact": Annotated[
            Path | None,
            typer.Argument(
                help="Default: the newest *.onnx; on GPU hosts also *.engine, *.aot.pt2.",
                show_default=False,
            ),
        ],
        "config": Annotated[
            Path | None,
            typer.Option("--config", help="A TOML file of settings.", show_default=False),
        ],
    }
    group = None
    for name in ServeSettings.model_fields:
        group = GROUPS.get(name, group)
        kind = str if kind_of(name) is SecretStr else kind_of(name)
        flag = f"--{name.replace('_', '-')}"
        names = [f"{flag}/--no-{flag.removeprefix('--')}"] if kind is bool else [flag]
        option = typer.Option(
            *names,
            *(["-m"] if name == "model" else []),
            help=_help(name),
            metavar=METAVARS.get(kind, "<name>"),
            show_default=False,
            rich_help_panel=group,
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


def _help(name: str) -> str:
    """What a setting is about, which words it may be, and its default."""
    field = ServeSettings.model_fields[name]
    parts = [field.description or ""]
    if words := choices(name):
        end = ";" if parts[0][0].islower() else "."
        parts.insert(0, f"{', '.join(words[:-1])} or {words[-1]}{end}")
    if field.default not in (None, False):
        number = isinstance(field.default, (int, float))
        default = f"{field.default:.10g}" if number else field.default
        if number and field.default % _MIB == 0 and field.default:
            default += f" ({field.default // _MIB} MiB)"
        parts.append(f"Default: {default}.")
    return " ".join(parts)


command = _with_flags(_serve)
