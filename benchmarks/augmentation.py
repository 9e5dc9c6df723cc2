"""What augmentation in time comes to in videos of one format, and of a distribution of lengths.

    python benchmarks/augmentation.py [--recipe ssv2-i3d-r50-ours] [--size 427x240]
        [--seconds 2,3.8,6] [--deviation 1]

Ego-motion (eq. 9): of the paths that a recipe wants, how much happens where the first crop is drawn
among those from which the path fits, and where it is drawn anywhere. Sampling rates (eq. 8): what
each way of treating videos that are shorter than a clip shows. Lengths are drawn from a normal
distribution around the middle number of --seconds, cut off at the others. `stdeploy data check
--recipe` says the same of the videos of a data set.
"""

import argparse
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from stdeploy.artifacts.spec import ClipSpec
from stdeploy.train.augment import Augmentation, Draw, crop_corners
from stdeploy.train.augmentation_effects import short_videos_of
from stdeploy.train.recipe import Recipe
from stdeploy.video.transform import resized_shape

_CLIPS, _VIDEOS = 50_000, 100_000
_Crops = Callable[[int, int, int, int, Draw], NDArray[np.intp]]


def main() -> None:
    """Print two tables in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="ssv2-i3d-r50-ours")
    parser.add_argument("--size", default="427x240", help="width and height of the videos")
    parser.add_argument("--seconds", default="2,3.8,6", help="shortest, middle and longest video")
    parser.add_argument("--deviation", type=float, default=1.0, help="of the lengths, in seconds")
    options = parser.parse_args()
    recipe = Recipe.load(options.recipe)
    clip, augmentation = recipe.clip_spec(), recipe.augmentation
    width, height = (int(text) for text in options.size.split("x"))
    shortest, middle, longest = (float(text) for text in options.seconds.split(","))
    _print_ego_motion(height, width, clip, augmentation)
    lengths = np.random.default_rng(0).normal(middle, options.deviation, 4 * _VIDEOS)
    lengths = lengths[(lengths >= shortest) & (lengths <= longest)][:_VIDEOS]
    _print_short_videos(np.rint(lengths * clip.fps) / clip.fps, clip, augmentation)


def crops_anywhere(
    height_px: int, width_px: int, side_px: int, num_frames: int, draw: Draw
) -> NDArray[np.intp]:
    """Like `crop_corners`, with a first crop anywhere in the frame, whatever the path."""
    room = np.array([height_px - side_px, width_px - side_px])
    first = np.rint(room * np.asarray(draw.origin))
    moved = first + np.arange(num_frames)[:, None] * np.asarray(draw.velocity_px)
    return np.asarray(np.clip(np.rint(moved), 0, room), dtype=np.intp)


def _print_ego_motion(height: int, width: int, clip: ClipSpec, augmentation: Augmentation) -> None:
    low, high = augmentation.short_side_px or (clip.short_side_px, clip.short_side_px)
    steps = clip.num_frames - 1
    print(
        f"{width}x{height} px, shorter side {low} to {high}, crop {clip.crop_px}, "
        f"{clip.num_frames} frames, sigma {augmentation.ego_motion_sigma_px:g} px a frame\n\n"
        "| first crop, x / y | path wanted, px | path, px | sigma, px a frame | path cut short |\n"
        "| --- | --- | --- | --- | --- |"
    )
    rules: dict[str, _Crops] = {"anywhere": crops_anywhere, "where the path fits": crop_corners}
    for name, crops in rules.items():
        moved, wanted = np.empty((_CLIPS, 2)), np.empty((_CLIPS, 2))
        for number in range(_CLIPS):
            draw = Draw.of(augmentation, clip, np.random.default_rng(number))
            shape = resized_shape(height, width, draw.short_side_px)
            corners = crops(*shape, clip.crop_px, clip.num_frames, draw)
            moved[number] = corners[-1] - corners[0]
            wanted[number] = steps * np.asarray(draw.velocity_px)
        # Two places are rounded to whole pixels, so that a whole path is off by less than 1 px.
        cut = np.abs(wanted - moved) > 1
        cells = [
            _pair(np.abs(wanted).mean(axis=0), ".1f"),
            _pair(np.abs(moved).mean(axis=0), ".1f"),
            _pair(np.sqrt(np.square(moved).mean(axis=0)) / steps, ".2f"),
            f"{_pair(cut.mean(axis=0), '.0%')}, either {cut.any(axis=1).mean():.0%}",
        ]
        print(f"| {name} | {' | '.join(cells)} |")


def _print_short_videos(
    seconds: NDArray[np.float64], clip: ClipSpec, augmentation: Augmentation
) -> None:
    durations = seconds.tolist()
    rates = augmentation.frame_strides or (clip.frame_stride,)
    sampled = f"clips of {clip.num_frames} frames, r in {list(rates)}"
    print(
        f"\nvideos of {seconds.min():.1f} to {seconds.max():.1f} s, mean {seconds.mean():.2f} s, "
        f"at {clip.fps:g} frames a second; {sampled}\n\n"
        "| short videos | r as seen | clips longer than the video | frames past its end | still "
        "frames | clips that begin it again |\n| --- | --- | --- | --- | --- | --- |"
    )
    anyhow = augmentation.model_copy(update={"fit_frame_strides": False})
    rows: list[tuple[str, ClipSpec, Augmentation]] = [
        (way, clip.model_copy(update={"short_video": way}), anyhow)
        for way in ("hold", "loop", "stretch")
    ]
    fitting = augmentation.model_copy(update={"fit_frame_strides": True})
    rows.append(("hold, r that fits", clip.model_copy(update={"short_video": "hold"}), fitting))
    rows += [
        (
            f"hold, r = {rate}",
            clip.model_copy(update={"short_video": "hold"}),
            anyhow.model_copy(update={"frame_strides": (rate,)}),
        )
        for rate in rates
    ]
    for name, spec, varied in rows:
        found = short_videos_of(durations, spec, varied)
        shares = (found.longer, found.past_end, found.still, found.restarted)
        seen = f"{found.mean_stride:.2f} ± {found.stride_deviation:.2f}"
        print(f"| {name} | {seen} | {' | '.join(f'{share:.0%}' for share in shares)} |")


def _pair(vertical_horizontal: NDArray[np.float64], how: str) -> str:
    down, across = vertical_horizontal
    return f"{across:{how}} / {down:{how}}"


if __name__ == "__main__":
    main()
