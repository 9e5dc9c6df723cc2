"""What the owner of a network says about it: a TOML file, checked field by field."""

import dataclasses
import math
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from stdeploy.artifacts.files import StrPath, as_path, existing
from stdeploy.artifacts.label_files import check_classes, read_labels
from stdeploy.artifacts.spec import Channels, ClipSpec, ShortVideo
from stdeploy.artifacts.values import Line, Spec, parsed
from stdeploy.errors import ArtifactError, SpecError

_MOST_TOML_BYTES = 16 << 20
_AXES = "NCTHW"
# Of a std in 0..1: others make all pixels nearly alike, or of a size that nobody trains on.
_LEAST_STD, _LARGEST_STD = 0.02, 5.0


def _is_layout(layout: str) -> str:
    if sorted(layout.replace("V", "", 1)) != sorted(_AXES) or layout[:1] != "N":
        raise ValueError(
            "N, then C, T, H, W in any order, and V where views have an axis of their own: "
            "NCTHW, NTHWC, NTCHW or NVCTHW is allowed"
        )
    return layout


class PathDescription(Spec):
    """One input of a network that takes the clip at several frame rates, as SlowFast does.

    Attributes:
        name: of the input in the graph.
        every: it takes frames 0, every, 2 every, ... of the clip.
        frames: or these frames of the clip, from 0.
    """

    name: str = Field(min_length=1)
    every: int | None = Field(default=None, ge=1, le=100_000)
    frames: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if (self.every is None) == (self.frames is None):
            raise ValueError("either every = 4 or frames = [0, 4, ...] is wanted")
        return self

    def chosen(self, num_frames: int) -> tuple[int, ...]:
        """The frames that it takes from a clip.

        >>> PathDescription(name="slow", every=4).chosen(10)
        (0, 4, 8)
        """
        return self.frames or tuple(range(0, num_frames, self.every or 1))


class ClipTaken(Spec):
    """Which frames the network was trained on; see `ClipSpec`. What matters has no default."""

    num_frames: int = Field(ge=1, le=100_000)
    frame_stride: int = Field(ge=1, le=1_000_000)
    fps: float = Field(ge=1e-3, le=1000.0)
    short_side_px: int = Field(ge=8, le=8192)
    crop_px: int = Field(ge=8, le=4096)
    views: int = Field(default=1, ge=1, le=1000)
    short_video: ShortVideo = "hold"


class InputDescription(Spec):
    """How the network takes a clip: x = (pixels - mean) / std, then turned to its layout.

    Attributes:
        layout: axes, such as "NCTHW"; V is an axis of one view.
        range: of the pixels before mean and std: 0..1 divides them by 255.
        mean: subtracted, in that range, for the channels in `colour_order`.
        std: divides after that, likewise.
        colour_order: of the channels.
        paths: of a network with several inputs, each of them.
    """

    layout: Annotated[str, AfterValidator(_is_layout)]
    range: Literal["0..1", "0..255"]
    mean: Channels
    std: Channels
    colour_order: Literal["RGB", "BGR"]
    paths: tuple[PathDescription, ...] = ()

    @property
    def largest(self) -> float:
        """The white of a pixel before mean and std."""
        return 1.0 if self.range == "0..1" else 255.0

    @model_validator(mode="after")
    def _numbers_of_that_range(self) -> Self:
        other = "0..255" if self.range == "0..1" else "0..1"
        if min(self.std) <= 0:
            raise ValueError(f"std {self.std} holds a number that is not positive")
        for mean, std in zip(self.mean, self.std, strict=True):
            if self.range == "0..1":
                fits = mean <= 1.5 and _LEAST_STD <= std <= _LARGEST_STD
            else:
                fits = not 0 < mean <= 1 and std >= 1
            if not fits:
                black, white = (f"{(value - mean) / std:.4g}" for value in (0.0, self.largest))
                raise ValueError(
                    f"mean {mean:g} and std {std:g} make {black} of black and {white} of white in "
                    f"the range {self.range}; they look like those of {other}"
                )
        return self


class OutputDescription(Spec):
    """What the network gives.

    Attributes:
        gives: logits, or probabilities, of which logits are made.
        per_frame: one row for each step in time, which are averaged.
        name: of the output in the graph, where it has several.
    """

    gives: Literal["logits", "probabilities"]
    per_frame: bool = False
    name: str | None = None


class OwnerFiles(Spec):
    """A clip, and what the owner's own program answers to it.

    Attributes:
        clip: a .npy file, uint8 (T, H, W, 3), RGB, resized and cropped already.
        logits: a .npy file, (K,) of any float; probabilities where the network gives those.
    """

    clip: str
    logits: str


def _are_labels(said: object) -> object:
    texts = said if isinstance(said, list | tuple) else [said]
    if not all(isinstance(each, str) for each in texts):
        raise ValueError('the name of a text file or a list such as ["a", "b"] is allowed')
    return said


class Described(Spec):
    """The fields of the TOML file."""

    name: Line = ""
    origin: Line = ""
    licence: Line = ""
    labels: Annotated[tuple[str, ...] | str, BeforeValidator(_are_labels)]
    clip: ClipTaken
    input: InputDescription
    output: OutputDescription
    owner: OwnerFiles | None = None


@dataclasses.dataclass(frozen=True)
class OwnerAnswer:
    """What the owner's program answers to a clip.

    Attributes:
        frames: uint8 (T, H, W, 3), RGB, resized and cropped.
        logits: float64 (K,); probabilities where the network gives those.
    """

    frames: NDArray[np.uint8] = dataclasses.field(repr=False)
    logits: NDArray[np.float64] = dataclasses.field(repr=False)

    @classmethod
    def read(cls, frames: Path, logits: Path, *, source: str) -> Self:
        """Open two .npy files, in which nothing is run.

        Args:
            frames: the clip.
            logits: the answer.
            source: where the user named them, for errors.

        Raises:
            SpecError: one is no such file.
        """
        return cls(
            _array(frames, "the owner's clip", source), _array(logits, "the owner's logits", source)
        )

    def checked(self, clip: ClipSpec, classes: int, *, source: str) -> Self:
        """The same, if a network of such clips and classes can be compared with it.

        Args:
            clip: what the network sees.
            classes: K.
            source: where it was given, for errors.

        Returns:
            uint8 (T, H, W, 3) and float64 (K,), of which a batch of one is taken off.

        Raises:
            SpecError: other shapes or types, or numbers that are not finite.
        """
        frames, logits, shape = np.asarray(self.frames), np.asarray(self.logits), clip.frames_shape
        if frames.dtype != np.uint8 or frames.shape not in (shape, (1, *shape)):
            raise SpecError(
                f"{source}: the owner's clip is {frames.dtype} {frames.shape}; uint8 {shape} is "
                "wanted: the frames as they are shown, RGB, resized and cropped, before mean and "
                "std. Where the owner feeds clips of another size, give it, as [clip] of a "
                "description, or for weights: --set num_frames=8 --set crop_px=112"
            )
        if logits.dtype.kind != "f" or logits.size != classes or math.prod(logits.shape[:-1]) != 1:
            raise SpecError(
                f"{source}: the owner's logits are {logits.dtype} {logits.shape}; floats "
                f"({classes},) are wanted, one for each label"
            )
        numbers = logits.astype(np.float64).reshape(-1)
        if not np.isfinite(numbers).all():
            raise SpecError(f"{source}: the owner's logits hold a number that is not finite")
        return type(self)(np.array(frames).reshape(shape), numbers)


@dataclasses.dataclass(frozen=True)
class ClipDescription:
    """A network as its owner describes it, with the files that the description names.

    Attributes:
        said: the fields of the file.
        clip: for the card: mean and std in 0..1 and for R, G, B.
        labels: names of the K classes.
        owner: clip and answer of the owner, if there are any.
        answered_by: whose answer that is. A module in Python answers a clip that was normalised
            here, so that it cannot tell a wrong mean.
    """

    said: Described
    clip: ClipSpec
    labels: tuple[str, ...]
    owner: OwnerAnswer | None = None
    answered_by: Literal["its owner", "its module"] = "its owner"

    @classmethod
    def read(cls, path: StrPath) -> "ClipDescription":
        """Read a TOML file; names of files in it are relative to its folder.

        Raises:
            ArtifactError: there is no such file.
            SpecError: it is no TOML, a field is missing, unknown or cannot be, or a file that it
                names cannot be used.
        """
        path = existing(as_path(path, "a description"), wanted="a TOML file that describes it")
        if path.stat().st_size > _MOST_TOML_BYTES:
            raise SpecError(f"{str(path)!r} is larger than {_MOST_TOML_BYTES >> 20} MiB")
        try:
            fields = parsed(tomllib.loads, path.read_text(encoding="utf-8-sig"))
        except (ValueError, OSError) as error:
            raise SpecError(f"{str(path)!r} is no TOML: {str(error)[:200]}") from error
        return cls.of(Described.parse(fields, source=str(path)), path)

    @classmethod
    def of(cls, said: Described, path: Path) -> "ClipDescription":
        """Complete a description with the files that it names.

        Args:
            said: the fields.
            path: of the TOML file, for their folder and for errors.

        Raises:
            SpecError: likewise.
        """
        taken, pixels = said.clip, said.input
        mean, std = (
            tuple(value / pixels.largest for value in _rgb(values, pixels.colour_order))
            for values in (pixels.mean, pixels.std)
        )
        clip = ClipSpec.parse(
            {**taken.model_dump(), "mean": mean, "std": std}, source=f"{path}: clip"
        )
        for each in pixels.paths:
            beyond = [frame for frame in each.chosen(clip.num_frames) if frame >= clip.num_frames]
            if beyond:
                raise SpecError(
                    f"{path}: input.paths {each.name!r} takes frame {beyond[0]}; a clip has "
                    f"frames 0 to {clip.num_frames - 1}"
                )
        labels = _labels(said.labels, path)
        owner = None
        if said.owner is not None:
            files = (path.parent / name for name in (said.owner.clip, said.owner.logits))
            owner = OwnerAnswer.read(*files, source=str(path)).checked(
                clip, len(labels), source=str(path)
            )
        return cls(said, clip, labels, owner)

    @property
    def paths(self) -> tuple[tuple[str | None, tuple[int, ...]], ...]:
        """Each input: its name, None for the only one, and the frames of the clip that it takes."""
        frames = self.clip.num_frames
        named = tuple((each.name, each.chosen(frames)) for each in self.said.input.paths)
        return named or ((None, tuple(range(frames))),)


def inputs_of(
    description: ClipDescription, frames: NDArray[np.uint8]
) -> tuple[NDArray[np.float32], ...]:
    """What the owner's program would give to its network, computed apart from any graph.

    Args:
        description: of the network.
        frames: uint8 (N, T, H, W, 3), RGB.

    Returns:
        One array for each of its inputs, in its layout.
    """
    pixels = description.said.input
    found = []
    for _, chosen in description.paths:
        x = frames[:, list(chosen)].astype(np.float64)
        x = x[..., ::-1] if pixels.colour_order == "BGR" else x
        x = (x / (255.0 / pixels.largest) - np.array(pixels.mean)) / np.array(pixels.std)
        x = x.transpose(["NTHWC".index(axis) for axis in pixels.layout if axis != "V"])
        if "V" in pixels.layout:
            x = np.expand_dims(x, pixels.layout.index("V"))
        found.append(np.ascontiguousarray(x, dtype=np.float32))
    return tuple(found)


def _rgb(values: Channels, order: str) -> Channels:
    return values if order == "RGB" else (values[2], values[1], values[0])


def _labels(said: tuple[str, ...] | str, path: Path) -> tuple[str, ...]:
    """The names of the classes, from the list itself or the file that it names."""
    if isinstance(said, str):
        said = tuple(read_labels(path.parent / said, option=f"{path}: labels"))
    check_classes(said, source=str(path))
    return said


def _array(path: Path, what: str, source: str) -> NDArray[Any]:
    try:
        # Mapped: a file that announces more than it holds is refused, and nothing is allocated.
        found = np.load(existing(path, wanted="an array"), mmap_mode="r", allow_pickle=False)
    except (ArtifactError, OSError, ValueError, EOFError) as error:
        known = str(error) if isinstance(error, ArtifactError) else f"{str(path)!r} is no .npy file"
        raise SpecError(f"{source}: {what}: {known}; save it with numpy.save") from error
    if not isinstance(found, np.ndarray):  # several arrays in one file
        raise SpecError(f"{source}: {what}: {str(path)!r} is no .npy file; save it with numpy.save")
    return found
