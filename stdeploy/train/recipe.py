"""Recipes: everything that decides a training run, as a TOML file."""

import importlib.resources
import json
import math
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from stdeploy.artifacts.files import (
    AOT_SUFFIX,
    CHECKPOINT_SUFFIX,
    ENGINE_SUFFIX,
    FUSED_SUFFIX,
    ONNX_SUFFIX,
)
from stdeploy.artifacts.spec import ClipSpec, ModelSpec
from stdeploy.artifacts.values import Spec, parsed
from stdeploy.errors import SpecError, did_you_mean
from stdeploy.models.registry import check_architecture
from stdeploy.train.augment import Augmentation

_PACKAGED = importlib.resources.files("stdeploy.train").joinpath("recipes")
IMAGENET = "imagenet"  # weights of the hub
_STAGES = ("conv1", "conv2", "conv3", "conv4", "conv5")
# Does not decide about the numbers of a run; where it is augmented stands beside the recipe.
NOT_IN_FINGERPRINT: Final = {"optimisation": {"workers", "batches_ahead", "augment_on"}}
Stage = Literal["conv1", "conv2", "conv3", "conv4", "conv5"]


class Start(Spec):
    """What the weights are before training.

    Attributes:
        weights: "" for random ones; "imagenet" for those of torchvision from the hub; a file of
            2D weights with torchvision's or timm's names (.pth, .pt, .safetensors); or a
            checkpoint (.pt) of this program, whose classifier is replaced where the classes
            are others.
        inflation: how 2D weights become temporal ones, "coefficients", "orthonormal" or "filter";
            see `stdeploy.layers.inflation.inflate`. "filter" needs a finite model.eta.
        freeze: stages that are not trained; their norms keep their statistics too.
        freeze_norms: all norms keep the statistics that they came with.
    """

    weights: str = ""
    inflation: Literal["coefficients", "orthonormal", "filter"] = "orthonormal"
    freeze: tuple[Stage, ...] = ()
    freeze_norms: bool = False


class SyntheticData(Spec):
    """The synthetic data set that is made where no other is named.

    Attributes:
        train_videos: how many.
        validation_videos: likewise.
        seed: of everything random in them.
        camera_px: in validation videos the camera moves up to this far, in training it stands.
        speed: in validation videos actions are up to this factor faster or slower.
    """

    train_videos: int = Field(ge=10)
    validation_videos: int = Field(ge=10)
    seed: int = Field(default=0, ge=0, lt=2**63)
    camera_px: float = Field(default=0.0, ge=0.0, le=40.0)
    speed: float = Field(default=1.0, ge=1.0, le=4.0)


class Optimisation(Spec):
    """How the network is trained: SGD with momentum, linear warm-up, cosine to zero.

    Attributes:
        epochs: passes over the training videos.
        batch_size: clips in a step, over all processes and accumulated parts.
        accumulate: parts that a step is computed in, one after the other, to save memory.
        learning_rate: at its highest, after the warm-up.
        head_learning_rate_factor: on the learning rate of the classifier, which begins anew where
            the rest comes from elsewhere.
        warmup_epochs: epochs over which it rises from zero.
        momentum: of SGD.
        nesterov: whether the momentum looks ahead.
        weight_decay: on W~ (eq. 7) and the classifier's weights; not on norms and biases.
        label_smoothing: share of the target spread over all classes.
        dropout: share of features dropped before the classifier.
        clip_gradient_norm: gradients longer than this are shortened to it; 0 leaves them.
        ema_decay: of the running average of the weights that is kept instead of the last ones,
            per step; 0 keeps the last ones.
        precision: of the arithmetic; bf16 and fp16 are autocast, weights stay in fp32.
        sync_batch_norm: norms take their statistics over all processes (GPUs only).
        deterministic: the same numbers from every run on the same hardware and versions, on a GPU
            too, where sums otherwise come in any order. What it costs is measured and said.
        seed: of weights, order, augmentation and dropout.
        augment_on: where clips are resized, cut, mirrored and coloured: "cpu" by the processes that
            decode, "device" by what trains, "auto" for the latter on a GPU. Clips are the same, but
            for saturation (a level) and hue after it (a few). A run goes on as it was begun.
        channels_last: whether the channels of a pixel lie side by side in the memory of clips and
            weights; "auto" for yes on a GPU, unless the run is deterministic. Speed and rounding
            depend on it, nothing else.
        compile: have torch compile the network: its first step takes minutes, the others less time.
        workers: processes that decode, for each process that trains; "auto" for as many as there
            are processors to spare.
        batches_ahead: that each of them may have ready.
    """

    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    accumulate: int = Field(default=1, ge=1)
    learning_rate: float = Field(gt=0)
    head_learning_rate_factor: float = Field(default=1.0, gt=0)
    warmup_epochs: float = Field(default=0.0, ge=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    nesterov: bool = True
    weight_decay: float = Field(default=1e-4, ge=0)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    dropout: float = Field(default=0.5, ge=0, lt=1)
    clip_gradient_norm: float = Field(default=0.0, ge=0)
    ema_decay: float = Field(default=0.0, ge=0, lt=1)
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    sync_batch_norm: bool = False
    deterministic: bool = False
    seed: int = Field(default=0, ge=0, lt=2**63)
    augment_on: Literal["auto", "cpu", "device"] = "auto"
    channels_last: Literal["auto", "yes", "no"] = "auto"
    compile: bool = False
    workers: Annotated[int, Field(ge=0)] | Literal["auto"] = 2
    batches_ahead: int = Field(default=2, ge=1)

    @model_validator(mode="after")
    def _can_be_repeated(self) -> Self:
        if self.deterministic and self.compile:
            raise ValueError(
                "deterministic and compile exclude each other: what torch compiles adds up in "
                "an order of its own; leave one of them out"
            )
        return self

    @model_serializer(mode="wrap")
    def _as_before(self, to_fields: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what is as it was when there was no choice; see `Augmentation`."""
        fields: dict[str, Any] = to_fields(self)
        for name in ("augment_on", "channels_last", "compile", "batches_ahead"):
            if getattr(self, name) == type(self).model_fields[name].default:
                fields.pop(name, None)
        return fields


class Recipe(Spec):
    """A training run.

    Attributes:
        model: fields of ModelSpec; those that are left out are the starting checkpoint's, and
            the data set decides the number of classes.
        clip: fields of ClipSpec; likewise.
        augmentation: what is varied from clip to clip.
        start: the weights before training.
        optimisation: how the network is trained.
        synthetic: the data set that is made where the user names none.
    """

    # Tables are checked as what they become; see `model_spec` and `clip_spec`.
    model: dict[str, Any] = Field(default_factory=dict)
    clip: dict[str, Any] = Field(default_factory=dict)
    augmentation: Augmentation = Augmentation()
    start: Start = Start()
    optimisation: Optimisation
    synthetic: SyntheticData | None = None

    def model_spec(self, num_classes: int, parent: ModelSpec | None = None) -> ModelSpec:
        """The network for a number of classes.

        Args:
            num_classes: K.
            parent: of the checkpoint that training starts from.

        Raises:
            SpecError: a field that no network has, or a value that it cannot have.
        """
        inherited = parent.model_dump() if parent else {}
        if parent and parent.layout and "layout" not in self.model:
            wanted = self.model.get("temporal_lengths", parent.temporal_lengths)
            if isinstance(wanted, list | tuple) and tuple(wanted) != parent.temporal_lengths:
                lengths = ",".join(map(str, parent.temporal_lengths))
                raise SpecError(
                    f"model.temporal_lengths are {','.join(map(str, wanted))}, and the filters of "
                    f"this network, which was imported, have {lengths}; leave --temporal-lengths "
                    "and the recipe's field out to keep them"
                )
        return ModelSpec.parse(
            {**inherited, **self.model, "num_classes": num_classes}, source="Recipe, [model]"
        )

    def clip_spec(self, parent: ClipSpec | None = None) -> ClipSpec:
        """What the network sees.

        Args:
            parent: of the checkpoint that training starts from.

        Raises:
            SpecError: a field that no clip has, or a value that it cannot have.
        """
        inherited = parent.model_dump() if parent else {}
        return ClipSpec.parse({**inherited, **self.clip}, source="Recipe, [clip]")

    @classmethod
    def load(cls, name_or_path: str, overrides: Sequence[str] = ()) -> Self:
        """Read a recipe by the name of a packaged one, or a .toml file.

        Args:
            name_or_path: such as "starter", or "mine.toml".
            overrides: fields to set, such as "optimisation.epochs=3", in the notation of TOML;
                a text needs no quotation marks.

        Raises:
            SpecError: no such recipe, no TOML, or a field that is not known or allowed.
        """
        packaged = _PACKAGED.joinpath(f"{name_or_path}.toml")
        path = Path(name_or_path)
        if packaged.is_file():
            text = packaged.read_text()
        elif path.is_file():
            text = path.read_text(encoding="utf-8", errors="replace")
        else:
            raise SpecError(_unknown_recipe(name_or_path))
        try:
            fields = parsed(tomllib.loads, text)
        except ValueError as error:
            raise SpecError(f"recipe {name_or_path!r} is no TOML: {error}") from error
        return cls._of(fields, overrides, name_or_path)

    def with_settings(self, overrides: Sequence[str]) -> Self:
        """The same recipe with some fields set; see `load`."""
        fields = self.model_dump(exclude_defaults=True)
        return self._of(fields, overrides, "") if overrides else self

    @classmethod
    def _of(cls, fields: dict[str, Any], overrides: Sequence[str], name_or_path: str) -> Self:
        """A recipe with some fields set, if it describes a network."""
        for override in overrides:
            _set(fields, override)
        recipe = cls.parse(fields)
        if "architecture" in recipe.model:
            recipe.clip_spec()
            # Refuse a bad network, or weights that it cannot take, before any data is made.
            spec = recipe.model_spec(num_classes=1)
            check_architecture(spec.architecture)
            _check_inflation(recipe.start, spec)
        elif not recipe.start.weights.endswith(CHECKPOINT_SUFFIX):
            weights = recipe.start.weights
            raise SpecError(
                f"recipe {name_or_path!r} takes its network from a checkpoint, and there is "
                f"{f'none in {weights!r}' if weights else 'none'}; name one with --weights "
                f"CKPT.pt{_way_to_a_checkpoint(weights)}, or set model.architecture"
            )
        return recipe


def _way_to_a_checkpoint(weights: str) -> str:
    """Where the checkpoint is that belongs to a file that is none."""
    if weights.endswith((FUSED_SUFFIX, ONNX_SUFFIX, ENGINE_SUFFIX, AOT_SUFFIX)):
        return (
            " (the one that this file was made from: what is fused or exported is not trained on)"
        )
    if Path(weights).suffix:  # other than "imagenet"
        return f" (of another project's weights one is made by: stdeploy import {quote(weights)})"
    return ""


def changed_fields(before: Recipe, now: Recipe) -> list[str]:
    """Fields that decide about the numbers of a run and differ: "optimisation.epochs was 2, is 3".

    Args:
        before: one recipe.
        now: another.
    """
    one, other = (
        dict(_flat(json.loads(recipe.model_dump_json(exclude=NOT_IN_FINGERPRINT))))
        for recipe in (before, Recipe.parse(json.loads(now.model_dump_json())))
    )
    return [
        f"{name} was {json.dumps(one.get(name))}, is {json.dumps(other.get(name))}"
        for name in dict.fromkeys([*one, *other])
        if one.get(name) != other.get(name)
    ]


def _flat(fields: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in fields.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def packaged_recipes() -> list[str]:
    """Names of the recipes that come with the program."""
    names = (item.name for item in _PACKAGED.iterdir())
    return sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml"))


def _check_inflation(start: Start, spec: ModelSpec) -> None:
    """Refuse classic inflation into filters that have no average.

    Raises:
        SpecError: start.inflation is "filter" and model.eta is inf.
    """
    from_2d = start.weights and not start.weights.endswith(CHECKPOINT_SUFFIX)
    pure_averages = start.inflation == "filter" and max(spec.temporal_lengths) > 1
    if from_2d and pure_averages and math.isinf(spec.eta):
        raise SpecError(
            "start.inflation = 'filter' makes filters that are all average, which model.eta = inf "
            "excludes; use a finite eta, or inflation 'coefficients' or 'orthonormal'"
        )


def _unknown_recipe(name: str) -> str:
    names = packaged_recipes()
    wrong = f"no recipe {name!r}"
    if name.endswith(".toml") or "/" in name:
        wrong = f"recipe {name!r} {'is a folder' if Path(name).is_dir() else 'does not exist'}"
    return f"{wrong}; name a .toml file or one of: {', '.join(names)}{did_you_mean(name, names)}"


def _set(fields: dict[str, Any], override: str) -> None:
    """Set one field of parsed TOML, in place.

    Raises:
        SpecError: not TABLE.FIELD=VALUE.
    """
    place, equals, text = override.partition("=")
    table, dot, field = place.strip().partition(".")
    if not (equals and dot and table and field):
        raise SpecError(
            f"{override!r} sets nothing; write TABLE.FIELD=VALUE, such as optimisation.epochs=3"
        )
    try:
        value = parsed(tomllib.loads, f"value = {text}")["value"]
    except ValueError as error:
        value = text.strip()
        if value.startswith(("[", "{", '"', "'")):
            raise SpecError(
                f"{override!r} is no TOML; a shell takes quotation marks away, so put all of it "
                """into others: --set 'start.freeze=["conv1"]'"""
            ) from error
    inside = fields.setdefault(table, {})
    if not isinstance(inside, dict):
        raise SpecError(f"{override!r}: {table} is no table of the recipe")
    inside[field] = value
