"""What people type for videos: files, folders, patterns and lists."""

import glob
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from stdeploy.artifacts.files import meant_beside
from stdeploy.errors import DatasetError, SpecError
from stdeploy.video.video_files import PassedOver, videos_in

_STANDARD_INPUT = Path("-")
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/+[^/]")
_FETCHED = ("http", "https", "ftp")


def expand(
    arguments: Sequence[str],
    *,
    lists: Sequence[Path] = (),
    recursive: bool = False,
    report: Callable[[str], None] = lambda _: None,
) -> list[Path]:
    """Files, folders and patterns to files, in order, each once.

    A folder stands for the video files in it, sorted. What is no file, holds no video or
    matches nothing stays as it is, so that it gets its row.

    Args:
        arguments: as they were typed.
        lists: .csv lists of labelled videos, or text files with a path on each line, relative
            ones from where the list lies; "-" is standard input, whose paths start here. Lines
            that begin with # are no paths.
        recursive: folders stand for what lies in their folders too.
        report: is told in words of what is passed over in a folder, of folders that have more
            videos in their folders, and of arguments that do not exist under that name, but under
            one nearly the same.

    Raises:
        DatasetError: a list cannot be read.
        SpecError: a list of labelled videos is among the arguments, or an address.
    """
    for typed in arguments:
        if is_address(typed):
            raise SpecError(f"{typed!r} {wrong_with_address(typed)}")
    paths: dict[Path, None] = {}
    for path in (*map(Path, arguments), *_listed(lists)):
        if path.is_dir():
            passed = PassedOver()
            found = sorted(videos_in(path, recursive=recursive, passed_over=passed))
            # One level down only: a hint is not worth a walk through everything.
            deeper = found and not recursive and any(map(_has_videos, path.iterdir()))
            if paths.keys() >= set(found) != set():  # named twice, told once
                continue
            if words := passed.in_words():
                report(f"{path}: {words}")
            if deeper:
                report(f"{path}: its folders hold videos too; --recursive takes them as well")
        elif not os.path.lexists(path):
            matching = glob.glob(str(path), recursive=recursive)  # noqa: PTH207
            found = sorted(p for p in map(Path, matching) if p.is_file())
            if not found and str(path) in arguments and (meant := meant_beside(path)):
                report(f"{path} does not exist{meant}")
        else:
            if path.suffix.lower() == ".csv" and str(path) in arguments and _is_list(path):
                raise SpecError(
                    f"{str(path)!r} is a list of videos, no video; name it as --list {path}"
                )
            found = [path]
        paths.update(dict.fromkeys(found or [path]))
    return list(paths)


def common_folder(arguments: Sequence[str]) -> Path | None:
    """The folder that was given, or that holds all that were; None where others were given too."""
    if not arguments or not all(map(os.path.isdir, arguments)):
        return None
    try:
        folder = Path(os.path.commonpath(arguments))
    except ValueError:  # some from the root, some from here
        return None
    return None if folder == Path() else folder


def is_address(typed: str) -> bool:
    """Whether a text is a URL, of whose two slashes a path has made one; and no file."""
    return _ADDRESS.match(typed) is not None and not os.path.lexists(typed)


def wrong_with_address(address: str) -> str:
    """What is wrong with it, and what to do: "is an address, ..."."""
    scheme, _, rest = address.partition(":/")
    url = shlex.quote(f"{scheme}://{rest.lstrip('/')}")
    fetch = f"download it first (curl -LO {url}), or " if scheme.lower() in _FETCHED else ""
    return f"is an address, no file; {fetch}watch it if it is a stream: stdeploy watch {url}"


class Unfinished:
    """The videos that are still to be done, with the digest of their content.

    Args:
        paths: all videos.
        done: under which names the content of a digest is done; None where none is asked for.

    Attributes:
        digests: of the videos that were given, by their path as text.
        skipped: videos that were done.
        renamed: those of them that were done under other names only.
    """

    def __init__(self, paths: Sequence[Path], done: Mapping[str, set[str]] | None) -> None:
        self.digests: dict[str, str] = {}
        self.skipped = self.renamed = 0
        self._paths = paths
        self._done = done

    def __iter__(self) -> Iterator[Path]:
        from stdeploy.artifacts.files import digest_of
        from stdeploy.inference.result_files import name_in_file

        for path in self._paths:
            digest = None if self._done is None else digest_of(path)
            if digest is not None:
                if self._done is not None and digest in self._done:
                    self.skipped += 1
                    self.renamed += name_in_file(path) not in self._done[digest]
                    continue
                self.digests[str(path)] = digest
            yield path


def has_videos_below(folder: Path) -> bool:
    """Whether the folders of a folder hold videos, which --recursive would find."""
    return folder.is_dir() and any(
        video.parent != folder for video in videos_in(folder, recursive=True)
    )


def default_artifact() -> Path:
    """The newest artifact of this folder that can be run here.

    Raises:
        ArtifactError: there is none.
    """
    from stdeploy.artifacts.files import AOT_SUFFIX, ENGINE_SUFFIX, ONNX_SUFFIX, newest
    from stdeploy.hardware import gpus

    # Code that was compiled here for another host is no default of this one.
    suffixes = (ONNX_SUFFIX, ENGINE_SUFFIX, AOT_SUFFIX) if gpus() else (ONNX_SUFFIX,)
    return newest(Path(), *suffixes, made_by="stdeploy export")


def _has_videos(path: Path) -> bool:
    """Whether a path is a folder with videos, itself, that is not hidden."""
    hidden = path.name.startswith(".")
    return path.is_dir() and not hidden and any(videos_in(path, recursive=False))


def _is_list(path: Path) -> bool:
    from stdeploy.datasets.csv_list import is_list

    return is_list(path)


def _listed(lists: Sequence[Path]) -> Iterator[Path]:
    from stdeploy.datasets.csv_list import is_list, paths_beside, read_list

    for source in lists:
        if is_list(source):
            yield from (sample.video for sample in read_list(source).samples)
            continue
        try:
            lines = _text_of(source).splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "is no text"
            raise DatasetError(f"the list {str(source)!r} cannot be read: {reason}") from error
        stripped = map(str.strip, lines)
        names = (line for line in stripped if line and not line.startswith("#"))
        yield from paths_beside(source, names)


def _text_of(source: Path) -> str:
    if source != _STANDARD_INPUT:
        return source.read_text()
    if sys.stdin is None:
        raise DatasetError("there is no list: standard input is closed")
    return sys.stdin.read()
