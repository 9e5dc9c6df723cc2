"""Recipes: everything that decides a training run, as a TOML file."""

import importlib.resources
import tomllib
from pathlib import Path
from typing import Self

from pydantic import Field

from stdeploy.errors import SpecError
from stdeploy.spec import ClipSpec, ModelSpec, Spec, TemporalLengths

_PACKAGED = importlib.resources.files("stdeploy.train").joinpath("recipes")


class ModelRecipe(Spec):
    """The network but for its classes, which the data set decides; see ModelSpec."""

    architecture: str
    temporal_lengths: TemporalLengths
    branches: str
    eta: float
    width: float = 1.0

    def to_spec(self, num_classes: int) -> ModelSpec:
        """The network for a number of classes.

        Raises:
            SpecError: a field has a value that no network can have.
        """
        return ModelSpec.parse({**self.model_dump(), "num_classes": num_classes})


class SyntheticData(Spec):
    """Size of the synthetic data set that is made where no other is named."""

    train_videos: int = Field(ge=10)
    validation_videos: int = Field(ge=10)
    seed: int = 0


class Optimisation(Spec):
    """How the network is trained: SGD with momentum, linear warm-up, cosine to zero.

    Attributes:
        epochs: passes over the training videos.
        batch_size: clips in a step.
        learning_rate: at its highest, after the warm-up.
        warmup_epochs: epochs over which it rises from zero.
        momentum: of SGD (Nesterov).
        weight_decay: on W~ (eq. 7) and the classifier's weights; not on norms and biases.
        label_smoothing: share of the target spread over all classes.
        dropout: share of features dropped before the classifier.
        seed: of weights, order, cropping and choice of frames.
        workers: processes that decode.
    """

    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
    warmup_epochs: float = Field(default=0.0, ge=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=1e-4, ge=0)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    dropout: float = Field(default=0.5, ge=0, lt=1)
    seed: int = 0
    workers: int = Field(default=2, ge=0)


class Recipe(Spec):
    """A training run.

    Attributes:
        model: the network.
        clip: what it sees.
        optimisation: how it is trained.
        synthetic: the data set that is made where the user names none.
    """

    model: ModelRecipe
    clip: ClipSpec
    optimisation: Optimisation
    synthetic: SyntheticData | None = None

    def with_temporal_lengths(self, lengths: tuple[int, ...]) -> Self:
        """The same recipe for a network with other t1..t5.

        Raises:
            SpecError: not five odd numbers.
        """
        fields = self.model_dump()
        fields["model"]["temporal_lengths"] = lengths
        changed = self.parse(fields)
        changed.model.to_spec(num_classes=1)
        return changed

    @classmethod
    def load(cls, name_or_path: str) -> Self:
        """Read a recipe by the name of a packaged one, or a .toml file.

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
            names = sorted(
                item.name.removesuffix(".toml")
                for item in _PACKAGED.iterdir()
                if item.name.endswith(".toml")
            )
            raise SpecError(
                f"no recipe {name_or_path!r}; name a .toml file or one of: {', '.join(names)}"
            )
        try:
            fields = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise SpecError(f"recipe {name_or_path!r} is no TOML: {error}") from error
        recipe = cls.parse(fields)
        recipe.model.to_spec(num_classes=1)  # refuse a bad network before any data is made
        return recipe
