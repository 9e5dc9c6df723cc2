"""How the help of all verbs reads, and what other programs call our verbs and settings."""

import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args, get_type_hints

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption
from typer.models import OptionInfo

# What stands for a value in the help; short, so that options and their text have room in 80
# columns.
METAVARS: Mapping[Any, str] = {
    bool: "",
    int: "<n>",
    float: "<x>",
    Path: "<path>",
    str: "<text>",
}


class _Verb(TyperCommand):
    """A verb whose help says <path> for arguments, and nothing for --help, which takes no value."""

    def get_params(self, ctx: Any) -> list[Any]:
        """All parameters."""
        parameters = super().get_params(ctx)
        for each in parameters:
            if not isinstance(each, TyperArgument):
                continue
            described = getattr(each, "type_descriptor", None)  # no promise of typer's
            found = METAVARS.get(_kind(getattr(described, "annotation", None)))
            if found is not None:
                # The kind of an argument has no other place; typer would say <list[Path]>.
                each.display_type = lambda ctx, found=found: found  # type: ignore[method-assign,misc]  # noqa: ARG005
        return parameters

    def get_help_option(self, ctx: Any) -> TyperOption | None:
        return _without_value(super().get_help_option(ctx))


class Verbs(TyperGroup):
    """The same for a verb with verbs below it, and for the program."""

    def get_help_option(self, ctx: Any) -> TyperOption | None:
        """The option --help."""
        return _without_value(super().get_help_option(ctx))


def _without_value(option: TyperOption | None) -> TyperOption | None:
    if option is not None:
        option.metavar = ""
    return option


def tidy_help(verbs: typer.Typer) -> None:
    """Let the help say <n> where typer would say <int range>, and fill its lines once only.

    Typer keeps the line breaks of a docstring, then breaks lines where the terminal ends.
    """
    for verb in verbs.registered_commands:
        paragraphs = (inspect.getdoc(verb.callback) or "").split("\n\n")
        verb.cls = _Verb
        verb.help = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
        for hint in get_type_hints(verb.callback, include_extras=True).values():
            for info in getattr(hint, "__metadata__", ()):
                if isinstance(info, OptionInfo) and info.metavar is None:
                    info.metavar = METAVARS.get(_kind(hint))


def _kind(hint: Any) -> Any:
    """The type of a value, without what is around it: Annotated, None, list."""
    inner = get_args(hint)
    return _kind(inner[0]) if inner else hint


# By what is typed; a verb, with the verb below it where it has some.
_VERBS: Mapping[str, tuple[str, ...]] = {
    "classify": ("predict", "infer", "inference", "run", "recognize", "recognise", "label", "demo"),
    "evaluate": ("test", "eval", "validate", "val", "score", "accuracy"),
    "export": ("convert", "compile", "quantize", "quantise", "onnx", "build"),
    "fuse": ("fold", "merge", "reparameterize", "reparameterise", "deploy"),
    "bench": ("benchmark", "profile", "speed", "latency"),
    "watch": ("stream", "camera", "webcam", "live", "rtsp"),
    "pull": ("download", "get", "fetch", "install"),
    "card": ("info", "show", "inspect", "describe"),
    "serve": ("server", "api", "http"),
    "train": ("fit", "finetune", "fine-tune", "learn"),
    "flops": ("macs", "params", "parameters", "summary"),
    "data check": ("check", "verify"),
    "data split": ("split", "divide"),
    "analyze filters": ("analyse", "filters", "visualize", "visualise"),
    "doctor": ("env", "environment", "version", "devices"),
}
_OPTIONS_OF_TRAIN: Mapping[str, tuple[str, ...]] = {
    "--weights": ("pretrained", "checkpoint", "ckpt", "init", "load", "model"),
    "--data": ("dataset", "data-dir", "data-path", "root", "train-dir", "videos"),
    "--output": ("out", "save", "save-dir", "output-dir"),
    "--recipe": ("config", "cfg"),
    "--devices": ("gpus", "num-gpus", "nproc-per-node"),
    "--accelerator": ("device",),
}
_FIELDS: Mapping[str, tuple[str, ...]] = {
    "learning_rate": ("lr", "base-lr", "learning-rate"),
    "epochs": ("epoch", "max-epochs", "num-epochs", "n-epochs"),
    "batch_size": ("batch", "bs"),
    "weight_decay": ("wd",),
    "warmup_epochs": ("warmup", "warm-up"),
    "workers": ("num-workers", "loader-workers"),
    "accumulate": ("accumulation", "grad-accum", "gradient-accumulation-steps"),
    "clip_gradient_norm": ("clip-grad", "gradient-clip", "max-grad-norm"),
    "precision": ("amp", "fp16", "bf16"),
    "ema_decay": ("ema",),
    "architecture": ("arch", "backbone", "network"),
    "num_frames": ("frames", "clip-length", "clip-len"),
    "frame_stride": ("stride", "sampling-rate", "frame-interval"),
    "crop_px": ("crop", "size", "input-size", "image-size", "resolution"),
}


def verb_meant(typed: str) -> str | None:
    """The verb that does what another program's does; None where none is known.

    >>> verb_meant("predict"), verb_meant("check"), verb_meant("sing")
    ('classify', 'data check', None)
    """
    return _meant(typed, _VERBS)


def setting_meant(typed: str) -> str | None:
    """What to give `stdeploy train` for an option that it has not.

    >>> setting_meant("--epochs"), setting_meant("--lr"), setting_meant("--gpus")
    ('--set optimisation.epochs=N', '--set optimisation.learning_rate=X', '--devices')
    >>> setting_meant("--short-side-px"), setting_meant("--freeze"), setting_meant("--song")
    ('--set clip.short_side_px=N', '--set start.freeze=VALUE', None)

    Args:
        typed: the option, with its dashes.

    Returns:
        None where no field of a recipe has that name.
    """
    name = typed.lstrip("-").lower().replace("_", "-")
    field = _meant(name, _FIELDS) or name.replace("-", "_")
    for table, fields in _tables():
        if field in fields:
            return f"--set {table}.{field}={_placeholder(fields[field])}"
    return _meant(name, _OPTIONS_OF_TRAIN)


def _meant(typed: str, names: Mapping[str, tuple[str, ...]]) -> str | None:
    return next((ours for ours, theirs in names.items() if typed.lower() in theirs), None)


def _tables() -> Iterator[tuple[str, Mapping[str, object]]]:
    """The tables of a recipe with the types of their fields."""
    from stdeploy.artifacts.spec import ClipSpec, ModelSpec
    from stdeploy.train.augment import Augmentation
    from stdeploy.train.recipe import Optimisation, Start

    for table, spec in (
        ("optimisation", Optimisation),
        ("start", Start),
        ("clip", ClipSpec),
        ("model", ModelSpec),
        ("augmentation", Augmentation),
    ):
        yield table, {name: each.annotation for name, each in spec.model_fields.items()}


def _placeholder(kind: object) -> str:
    return {int: "N", float: "X"}.get(kind, "VALUE") if isinstance(kind, type) else "VALUE"
