"""The weights before training: random, from a 2D network, or from a checkpoint."""

import copy
import dataclasses
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from stdeploy.artifacts.contents import read_checkpoint
from stdeploy.artifacts.files import cache_folder, existing
from stdeploy.artifacts.spec import ClipSpec, ModelSpec
from stdeploy.errors import ArtifactError, DownloadError, SpecError
from stdeploy.layers.branch_growth import grow_filter
from stdeploy.layers.inflation import Inflation, Norm2d, inflate_filter
from stdeploy.layers.temporal import TemporalFilter
from stdeploy.models.base import ActionModel
from stdeploy.models.checkpoint import load_model, say, stored_precision, unwrapped
from stdeploy.models.registry import build
from stdeploy.train.recipe import IMAGENET, Recipe

# A name of a tensor tells whose network it is.
_OTHERS = {
    "stem.0.weight": "torchvision (r3d_18, mc3_18, r2plus1d_18)",
    "blocks.0.conv.weight": "PyTorchVideo",
    "blocks.0.multipathway_blocks.0.conv.weight": "PyTorchVideo (SlowFast)",
    "backbone.conv1.conv.weight": "MMAction2",
    "Conv3d_1a_7x7.conv3d.weight": "pytorch-i3d",
}


@dataclasses.dataclass(frozen=True)
class Started:
    """A network that is ready to be trained.

    Attributes:
        model: with its first weights.
        clip: what it sees.
        origin: where the weights come from, in words, for the card.
        licence: of those weights.
        notes: what is odd about it, in words.
    """

    model: ActionModel
    clip: ClipSpec
    origin: str = ""
    licence: str = ""
    notes: tuple[str, ...] = ()


def start(recipe: Recipe, labels: tuple[str, ...]) -> Started:
    """Build the network of a recipe and give it its first weights.

    Args:
        recipe: names them.
        labels: K class names; a checkpoint's classifier is kept only where its labels are
            exactly these.

    Raises:
        ArtifactError: no such file, or weights that do not fit the network.
        DownloadError: the hub cannot be reached.
        SpecError: the recipe's network, or one that no 2D weights fit.
    """
    torch.manual_seed(recipe.optimisation.seed)
    weights = recipe.start.weights
    if weights and weights != IMAGENET:
        path = existing(Path(weights))
        # A recipe without a network takes it from a checkpoint, so the file has to be one.
        if "architecture" not in recipe.model or _is_checkpoint(path):
            return _from_checkpoint(recipe, path, labels)
    model = build(recipe.model_spec(len(labels)))
    clip = recipe.clip_spec()
    if not weights:
        return Started(model, clip)
    tensors = _from_hub(model) if weights == IMAGENET else _unwrapped_2d(Path(weights), model)
    inflate_network(model, tensors, recipe.start.inflation, source=weights)
    return Started(model, clip, origin=f"inflated from {weights}")


def inflate_network(
    model: ActionModel, tensors: Mapping[str, Tensor], reading: Inflation, *, source: str
) -> None:
    """Start a network from the weights of the 2D network that it extends, in place.

    Every branch of a filter gets the inflated kernel (paper, sections 2.2 and 3.2), statistics
    that fit it, and an equal share of gamma and beta; `inflate_filter` says in which cases a still
    video then has the features of the 2D network. The 1x1 shortcut is the 2D one. The classifier,
    and filters without a 2D counterpart (`ActionModel.counterparts`), keep their random weights.

    Args:
        model: built, untrained.
        tensors: by the names of torchvision and timm: conv1, bn1, layer1.0.conv1, ...
        reading: see `stdeploy.layers.inflation.inflate`.
        source: of the tensors, for errors.

    Raises:
        SpecError: the network extends no 2D network.
        ArtifactError: a tensor is missing or has another shape.
    """
    if video := sorted(name for name, tensor in tensors.items() if tensor.ndim == 5):
        raise ArtifactError(_of_another_program(source, tensors, video))
    counterparts = list(model.counterparts())
    if not counterparts:
        raise SpecError(
            f"{model.spec.architecture!r} extends no 2D network; start from random weights, or "
            "from a checkpoint of the same architecture"
        )
    for layer, conv, norm in counterparts:
        kernel = _tensor(tensors, f"{conv}.weight", source)
        after = Norm2d(
            weight=_tensor(tensors, f"{norm}.weight", source),
            bias=_tensor(tensors, f"{norm}.bias", source),
            mean=_tensor(tensors, f"{norm}.running_mean", source),
            variance=_tensor(tensors, f"{norm}.running_var", source),
        )
        try:
            inflate_filter(layer, kernel, after, reading)
        except SpecError as error:
            raise ArtifactError(f"{source!r}, {conv}.weight: {error}") from error


def _of_another_program(source: str, tensors: Mapping[str, Tensor], video: list[str]) -> str:
    """What weights of a 3D network are whose modules are not those of this program."""
    whose = next((whose for name, whose in _OTHERS.items() if name in tensors), "another program")
    shape = "x".join(map(str, tensors[video[0]].shape))
    return (
        f"{source!r} is a state_dict of a 3D network of {whose} ({len(video)} convolutions over "
        f"time, {video[0]} is {shape}), whose modules are others than here; make a checkpoint of "
        f"it first (stdeploy import {shlex.quote(source)}), or start from a 2D ResNet (--weights "
        "imagenet, or torchvision's resnet50.pth) or another checkpoint of stdeploy (stdeploy "
        "pull kinetics400-i3d)"
    )


def _tensor(tensors: Mapping[str, Tensor], name: str, source: str) -> Tensor:
    if name not in tensors:
        raise ArtifactError(
            f"{source!r} holds no {name!r}; 2D weights have the names of torchvision's and timm's "
            "ResNets, with blocks of the same kind"
        )
    return tensors[name]


def _is_checkpoint(path: Path) -> bool:
    """Whether a file is a checkpoint of this program, not bare tensors."""
    if path.suffix != ".pt":
        return False
    try:
        read_checkpoint(path)
    except ArtifactError:
        # 2D weights are often called .pt too; anything else is reported when those are read.
        return "state_dict" in _from_file(path)
    return True


def _from_checkpoint(recipe: Recipe, path: Path, labels: tuple[str, ...]) -> Started:
    parent, card = load_model(path)
    network = card.buildable("training")
    spec = recipe.model_spec(len(labels), network)
    if spec.architecture != network.architecture:
        raise ArtifactError(
            f"{str(path)!r} is of {network.architecture!r}, the recipe asks for "
            f"{spec.architecture!r}; --recipe finetune takes the network of a checkpoint as it is"
        )
    model = build(spec)
    own = model.state_dict()
    tensors = _grown(parent, model)
    if card.labels != labels:
        for name in own:
            if name.startswith("head.classifier."):
                tensors[name] = own[name]
    there, needed = ({name: tuple(t.shape) for name, t in w.items()} for w in (tensors, own))
    misfit = next((n for n in {**needed, **there} if needed.get(n) != there.get(n)), None)
    if misfit is not None:
        raise ArtifactError(
            f"{str(path)!r} does not fit the network that is asked for: {misfit} is "
            f"{there.get(misfit, 'not in it')}, needed {needed.get(misfit, 'nowhere')}; "
            f"{_other_network(recipe, network, spec)}"
        )
    model.load_state_dict(tensors)
    described = f"started from {path.name}"
    origin = f"{described} ({card.lineage.origin})" if card.lineage.origin else described
    clip = recipe.clip_spec(card.clip)
    notes: tuple[str, ...] = ()
    if network.causal != spec.causal:
        now, before = "look back only", "were centred"
        if network.causal:
            now, before = "are centred", "looked back only"
        notes = (
            f"filters {now} here, as model.causal says, and {before} in {path.name}: the network "
            "begins with other answers than that one's",
        )
    if network.layout is not None and clip.frames_shape != card.clip.frames_shape:
        sizes = (f"{each.num_frames} frames of {each.crop_px} px" for each in (clip, card.clip))
        notes += (
            "clips are {} here, as the recipe says, and were {} of this imported network; "
            "--recipe finetune-imported keeps those".format(*sizes),
        )
    return Started(model, clip, origin, card.lineage.licence, notes)


def _grown(parent: ActionModel, model: ActionModel) -> dict[str, Tensor]:
    """The weights of a checkpoint, in the form that the branches and eta of another network have.

    A network that is no such form of it is refused by the names and shapes of its weights.
    """
    one, other = ((m.spec.branches, m.spec.eta) for m in (parent, model))
    if one == other or (one[0] == "multi" and other[0] == "single"):
        return parent.state_dict()
    grown = copy.deepcopy(model)
    for name, layer in grown.named_modules():
        if isinstance(layer, TemporalFilter):
            source = parent.get_submodule(name)
            if not isinstance(source, TemporalFilter) or source.kernel_size != layer.kernel_size:
                return parent.state_dict()
            grow_filter(layer, source)
    tensors = grown.state_dict()
    others = {n: t for n, t in parent.state_dict().items() if "branches" not in n.split(".")}
    return {**tensors, **others}


def _other_network(recipe: Recipe, parent: ModelSpec, wanted: ModelSpec) -> str:
    """In which fields a recipe asks for another network than its checkpoint's, and the way out."""
    asked = [name for name in recipe.model if getattr(wanted, name) != getattr(parent, name)]
    fields = ", ".join(
        f"model.{name} is {getattr(wanted, name)!r}, in the checkpoint {getattr(parent, name)!r}"
        for name in asked
    )
    option = "--temporal-lengths or " if "temporal_lengths" in asked else ""
    return f"{fields}; leave {option}the recipe's field out to take the checkpoint's network"


def _from_file(path: Path) -> dict[str, Tensor]:
    """Bare 2D tensors by name.

    Raises:
        ArtifactError: no such file, or not one of tensors alone.
    """
    try:
        if existing(path).suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, RuntimeError, EOFError, ValueError) as error:
        raise ArtifactError(f"{str(path)!r} cannot be read: {_brief(error)}") from error
    except Exception as error:  # UnpicklingError and what odd files make of it
        raise ArtifactError(
            f"{str(path)!r} holds more than tensors, which is not loaded: {_brief(error)}"
        ) from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict):
        raise ArtifactError(f"{str(path)!r} holds no tensors by name")
    return cast(dict[str, Tensor], content)


def _unwrapped_2d(path: Path, model: ActionModel) -> Mapping[str, Tensor]:
    """Bare 2D tensors by the names of the bare network; what was done to them is logged."""
    counterparts = list(model.counterparts())
    needed = [f"{conv}.weight" for _, conv, _ in counterparts]
    needed += [f"{norm}.running_mean" for _, _, norm in counterparts]
    tensors, done = unwrapped(_from_file(path), needed)
    if (stored := stored_precision(tensors)) != "fp32":
        widened = f"weights of {stored} were widened to fp32"
        done = f"{done}; {widened}" if done else widened
    if done:
        say(f"{path.name}: {done}")
    return tensors


def _from_hub(model: ActionModel) -> dict[str, Tensor]:
    url = model.imagenet_url
    if not url:
        raise SpecError(
            f"there are no ImageNet weights for {model.spec.architecture!r}; start from random "
            "weights, or from a checkpoint of the same architecture"
        )
    try:
        tensors = torch.hub.load_state_dict_from_url(
            url,
            model_dir=str(cache_folder()),
            check_hash=True,
            progress=False,
            map_location="cpu",
            weights_only=True,
        )
    except (OSError, RuntimeError) as error:
        raise DownloadError(
            f"{url} could not be fetched: {_brief(error)}; fetch it elsewhere and "
            "name the file as start.weights"
        ) from error
    return cast(dict[str, Tensor], tensors)


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
