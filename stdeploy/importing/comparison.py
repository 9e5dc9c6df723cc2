"""What a file made of another project's network must show before it gets its name."""

import dataclasses
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from stdeploy.artifacts.card import ParityRow
from stdeploy.artifacts.golden import GOLDEN_SEED, golden_clip
from stdeploy.artifacts.parity import RUNTIME_TOLERANCE, relative_error
from stdeploy.backends.base import Runtime
from stdeploy.backends.tensorrt_builder import Progress
from stdeploy.errors import ParityError
from stdeploy.export.verification import BATCHES
from stdeploy.importing.clip_description import ClipDescription, Described, OwnerAnswer
from stdeploy.importing.original_network import OriginalNetwork

_TOLERANCE = RUNTIME_TOLERANCE["fp32"]
_LEAST_SPREAD = 0.02


def golden_clips(description: ClipDescription) -> NDArray[np.uint8]:
    """The clips that both are given: uint8 (5, T, H, W, 3), the golden clip of the card first."""
    shape = description.clip.frames_shape
    return np.stack([golden_clip(GOLDEN_SEED + number, shape) for number in range(max(BATCHES))])


def compare(
    runtime: Runtime,
    original: NDArray[np.float64],
    clips: NDArray[np.uint8],
    description: ClipDescription,
    progress: Progress,
) -> tuple[ParityRow, ...]:
    """Compare a file with the network that it was made from, at batches 1, 2 and 5.

    Args:
        runtime: runs the file.
        original: what the network gave for the clips, (5, K).
        clips: from `golden_clips`.
        description: of the network; of probabilities the softmax of the logits is compared.
        progress: is told what is done, how much of it and of how much.

    Raises:
        ParityError: a batch differs.
    """
    rows = []
    for done, batch in enumerate(BATCHES, start=1):
        answers = as_described(runtime.run(clips[:batch]), description)
        error = relative_error(original[:batch], answers)
        rows.append(_row(runtime, f"batch {batch}", error, "against the original"))
        progress("comparing batches", done, len(BATCHES))
        if error > _TOLERANCE:
            raise ParityError(
                f"the imported network differs from the original at a batch of {batch}: relative "
                f"error {error:.1e}, allowed {_TOLERANCE:.0e}; nothing was written. Either what it "
                "answers to a clip depends on the others of a batch, or the batch that it was "
                "exported at was not made free: export it with a dynamic one"
            )
    return tuple(rows)


def compare_with_owner(
    runtime: Runtime,
    original: OriginalNetwork,
    description: ClipDescription,
    owner: OwnerAnswer,
) -> ParityRow:
    """Compare a file with what its owner's own program, or a module in Python, answers to a clip.

    Raises:
        ParityError: it answers otherwise; the message says which other description would be right,
            if one of those that are often mistaken is.
    """
    clip = owner.frames[None]
    expected = owner.logits[None]
    scale = _spread(expected)
    error = relative_error(expected, as_described(runtime.run(clip), description), scale)
    whose = description.answered_by.removeprefix("its ")
    if error > _TOLERANCE and whose == "module":
        raise ParityError(
            f"the exported graph answers a clip otherwise than the module: relative error "
            f"{error:.1e}, allowed {_TOLERANCE:.0e}; nothing was written"
        )
    if error > _TOLERANCE:
        hint = next(
            (
                f"; with {said} it answers as its owner's program does"
                for said, other in _others(description)
                if relative_error(expected, original.answers(other, clip), scale) <= _TOLERANCE
            ),
            "; the description is not what the owner's program does, or it has other weights",
        )
        raise ParityError(
            f"the owner's clip is answered otherwise than its owner says: relative error "
            f"{error:.1e}, allowed {_TOLERANCE:.0e}{hint}; nothing was written"
        )
    return _row(
        runtime, f"the {whose}'s clip", error, f"against its {whose}'s answer, of its spread"
    )


def _spread(answer: NDArray[np.float64]) -> float:
    """What the owner's answer is measured by: how far its classes are apart.

    Probabilities of a clip that says little are all nearly 1 / K, and another mean or order of
    colours changes little of that. Less than 1/50 of the largest is taken for 1/50, so that
    rounding does not count.
    """
    centred = float(np.abs(answer - answer.mean()).max())
    return max(centred, _LEAST_SPREAD * float(np.abs(answer).max()))


def as_described(
    logits: NDArray[np.floating], description: ClipDescription
) -> NDArray[np.floating]:
    """Logits (N, K) as what the original gives: their softmax where it gives probabilities."""
    if description.said.output.gives == "logits":
        return logits
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    powers = np.exp(shifted)
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


# Mean and std that published networks were trained with, in 0..1 and for R, G, B.
KNOWN_NORMALISATIONS = {
    "ImageNet's mean and std": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "torchvision's video mean and std": (
        (0.43216, 0.394666, 0.37645),
        (0.22803, 0.22145, 0.216989),
    ),
    "mean 0.45 and std 0.225": ((0.45,) * 3, (0.225,) * 3),
    "mean 0.5 and std 0.5": ((0.5,) * 3, (0.5,) * 3),
    "mean 0 and std 1": ((0.0,) * 3, (1.0,) * 3),
}


def _others(description: ClipDescription) -> Iterator[tuple[str, ClipDescription]]:
    """Descriptions that this one is often mistaken for, and what is different in words."""
    said = description.said
    pixels = said.input
    order = "BGR" if pixels.colour_order == "RGB" else "RGB"

    def changed(**fields: object) -> ClipDescription:
        described: Described = said.model_copy(update={"input": pixels.model_copy(update=fields)})
        return dataclasses.replace(description, said=described)

    turned = {"mean": pixels.mean[::-1], "std": pixels.std[::-1]}
    yield f'colour_order = "{order}"', changed(colour_order=order)
    yield f'colour_order = "{order}" and mean and std turned', changed(colour_order=order, **turned)
    if pixels.mean != pixels.mean[::-1]:
        yield "mean and std in the other order of colours", changed(**turned)
    for name, (mean, std) in KNOWN_NORMALISATIONS.items():
        for one in ("0..1", "0..255"):
            largest = 1.0 if one == "0..1" else 255.0
            numbers = {
                "mean": tuple(value * largest for value in mean),
                "std": std if name == "mean 0 and std 1" else tuple(v * largest for v in std),
            }
            if one == "0..1" or name == "mean 0 and std 1":
                yield f"{name} in the range {one}", changed(range=one, **numbers)
    if len(pixels.paths) > 1:
        names = [each.name for each in pixels.paths]
        swapped = tuple(
            each.model_copy(update={"name": name})
            for each, name in zip(pixels.paths, names[::-1], strict=True)
        )
        if len({len(each.chosen(description.clip.num_frames)) for each in pixels.paths}) == 1:
            yield "the names of input.paths swapped", changed(paths=swapped)


def _row(runtime: Runtime, what: str, error: float, detail: str) -> ParityRow:
    return ParityRow(
        check=f"{runtime.name}, {what}",
        precision="fp32",
        error=error,
        tolerance=_TOLERANCE,
        detail=detail,
    )
