"""Artifacts as files: their names, their digests, and writing them whole or not at all."""

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import platformdirs

from stdeploy.errors import ArtifactError, SpecError, did_you_mean

StrPath = str | os.PathLike[str]

CHECKPOINT_SUFFIX = ".pt"
FUSED_SUFFIX = ".fused.safetensors"
ONNX_SUFFIX = ".onnx"
ENGINE_SUFFIX = ".engine"
AOT_SUFFIX = ".aot.pt2"  # torch wants its packages to end in .pt2
OPENVINO_SUFFIX = ".xml"  # its weights lie beside it, in a .bin file
TORCH_PROGRAM_SUFFIX = ".pt2"
FLOAT_INPUT = ".float-ncthw"  # stands before the suffix of what takes such input
UNFINISHED = ".writing-"  # how the names of files and folders begin that are being written
CACHE_VARIABLE = "STDEPLOY_CACHE"
# As tempfile makes them of that beginning; what is merely called alike is not ours.
_UNFINISHED_NAME = re.compile(re.escape(UNFINISHED) + r"[a-z0-9_]{8}(\.[^.]+)?")
# A disk, a quota or the largest file that is allowed.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def as_path(value: StrPath, what: str) -> Path:
    """A path that a caller gave as text or as any object of paths.

    Args:
        value: what was given.
        what: it is wanted for, for the error: "an artifact".

    Raises:
        SpecError: it is neither.
    """
    if isinstance(value, bytes) or not isinstance(value, str | os.PathLike):
        raise SpecError(
            f"{what} is wanted as a path (str or os.PathLike), not as {type(value).__name__}"
        )
    return Path(value)


def fused_path(checkpoint: Path) -> Path:
    """Where `stdeploy fuse` writes: ckpt.pt -> ckpt.fused.safetensors."""
    return checkpoint.with_name(checkpoint.name.removesuffix(CHECKPOINT_SUFFIX) + FUSED_SUFFIX)


def onnx_path(fused: Path, precision: str = "fp32", form: str = "conv3d") -> Path:
    """Where `stdeploy export` writes: ckpt.fused.safetensors -> ckpt.onnx, or ckpt.int8.onnx.

    In planar form ckpt.planar.onnx, or ckpt.planar.int8.onnx; for streams ckpt.stream.onnx.
    """
    middle = "" if form == "conv3d" else f".{form}"
    middle += "" if precision == "fp32" else f".{precision}"
    return fused.with_name(fused.name.removesuffix(FUSED_SUFFIX) + middle + ONNX_SUFFIX)


def engine_path(onnx_file: Path, host: str, precision: str) -> Path:
    """Where engines go: ckpt.int8.onnx -> ckpt.nvidia-h200.int8.engine."""
    stem = onnx_file.name.removesuffix(ONNX_SUFFIX).removesuffix(f".{precision}")
    return onnx_file.with_name(f"{stem}.{host}.{precision}{ENGINE_SUFFIX}")


def aot_path(fused: Path, host: str, precision: str, form: str) -> Path:
    """Where packages of AOTInductor go: ckpt.nvidia-h200.planar.bf16.aot.pt2."""
    middle = ".".join([host, *(["planar"] if form == "planar" else []), precision])
    return fused.with_name(f"{fused.name.removesuffix(FUSED_SUFFIX)}.{middle}{AOT_SUFFIX}")


def is_compiled(path: Path) -> bool:
    """Whether a file is compiled code by its name, which has its card in the file beside it."""
    return path.name.endswith((ENGINE_SUFFIX, AOT_SUFFIX))


def sidecar_path(compiled: Path) -> Path:
    """The file beside compiled code that says what it is: x.engine -> x.engine.json."""
    return compiled.with_name(compiled.name + ".json")


def cache_folder() -> Path:
    """Where downloads and measurements are kept: STDEPLOY_CACHE, or the user's cache folder."""
    override = os.environ.get(CACHE_VARIABLE)
    return Path(override) if override else Path(platformdirs.user_cache_dir("stdeploy"))


def newest(folder: Path, *suffixes: str, made_by: str) -> Path:
    """The most recently written file of a folder with one of some suffixes.

    Files for other programs, such as NAME.float-ncthw.onnx, are left out.

    Args:
        folder: where to look; not below it.
        suffixes: ends of names, such as ".onnx".
        made_by: the command that makes such a file, for the error.

    Raises:
        ArtifactError: there is none.
    """
    found = [
        path
        for path in folder.iterdir()
        # Unfinished files of another run start with a dot; see whole_file.
        if path.name.endswith(suffixes)
        and not path.name.startswith(".")
        and not path.stem.endswith(FLOAT_INPUT)
        and path.is_file()
    ]
    if not found:
        wanted = " or ".join(f"*{suffix}" for suffix in suffixes)
        raise ArtifactError(
            f"no {wanted} in {str(folder.resolve())!r}; make one with `{made_by}` or name the file"
        )
    return max(found, key=lambda path: path.stat().st_mtime_ns)


def existing(path: Path, *, wanted: str = "an artifact file", also: Iterable[str] = ()) -> Path:
    """The same path, if it is a file that holds anything.

    Args:
        path: of an artifact.
        wanted: what can be named, for the error.
        also: names that could have been meant, beside the artifacts in its folder.

    Raises:
        ArtifactError: there is no such file, or it is empty.
    """
    if not path.is_file():
        if path.exists() and not path.is_dir():  # a pipe, a device
            raise ArtifactError(f"{str(path)!r} is no regular file; name {wanted}")
        what = "is a folder" if path.is_dir() else "does not exist"
        others = tuple(also)
        near = did_you_mean(
            path.name,
            [*_names_beside(path), *others],
            typed=lambda name: name if name in others else path.with_name(name),
        )
        raise ArtifactError(f"{str(path)!r} {what}; name {wanted}{near}")
    if path.stat().st_size == 0:
        raise ArtifactError(
            f"{str(path)!r} is empty (0 bytes); what wrote or copied it broke off, or the disk was "
            "full: make it or bring it again"
        )
    return path


def _names_beside(path: Path) -> list[str]:
    """Artifacts in the folder of a path, by name."""
    suffixes = (CHECKPOINT_SUFFIX, FUSED_SUFFIX, ONNX_SUFFIX, ENGINE_SUFFIX, AOT_SUFFIX)
    try:
        return sorted(p.name for p in path.parent.iterdir() if p.name.endswith(suffixes))
    except OSError:
        return []


def meant_beside(path: Path) -> str:
    """The end of a message about what does not exist: what lies there under nearly that name."""
    try:
        beside = list(path.parent.iterdir())
    except OSError:
        return ""
    # Without the suffixes too: every a.mp4 is near every b.mp4.
    near = [each.name for each in beside if did_you_mean(path.stem, [each.stem])]
    return did_you_mean(path.name, near, typed=path.with_name)


def checked_output(path: Path, suffix: str, *, source: Path | None = None) -> Path:
    """The same path, if a file of a kind can be written there; asked before the work is done.

    Args:
        path: where the user wants the file.
        suffix: how its name must end, such as ".onnx".
        source: the file it is made from, which must not be overwritten.

    Raises:
        ArtifactError: another suffix, a folder, the source itself, or no folder to write in.
    """
    if not path.name.endswith(suffix):
        raise ArtifactError(f"cannot write {str(path)!r}: the name has to end in {suffix}")
    if source is not None and path.exists() and source.exists() and path.samefile(source):
        raise ArtifactError(f"cannot write {str(path)!r} over the file that it is made from")
    if path.is_dir():
        raise ArtifactError(f"cannot write {str(path)!r}: it is a folder")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise ArtifactError(
            f"cannot write {str(path)!r}: {str(path.parent)!r} is no folder that can be written to"
        )
    return path


def sha256_of(path: Path) -> str:
    """Digest of a file, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(path: Path) -> str | None:
    """Like `sha256_of`; None for what is no file that can be read."""
    try:
        return sha256_of(path) if path.is_file() else None
    except (OSError, ValueError):  # a name with a zero in it
        return None


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its name when the block ends without an error.

    An interrupted or failed write leaves `path` as it was. The temporary name keeps the suffix
    of `path`, because some writers choose their format by it. The block may open the file that is
    there, but not put another in its place: a lock on it tells other runs that it is in use.

    Raises:
        ArtifactError: the folder cannot be written to, or there is no room.
    """
    clear_unfinished(path.parent)
    suffix = "".join(path.suffixes[-1:])
    try:
        lock, temporary = _locked(
            lambda: tempfile.mkstemp(prefix=UNFINISHED, suffix=suffix, dir=path.parent)
        )
    except OSError as error:
        raise ArtifactError(f"cannot write {str(path)!r}: {error.strerror}") from error
    try:
        with naming(path):
            yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp makes files private
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
        os.close(lock)


@contextlib.contextmanager
def unfinished_folder(parent: Path) -> Iterator[Path]:
    """A folder for what is not finished, in `parent`; it goes with the block.

    Raises:
        OSError: the parent cannot be written to.
    """
    clear_unfinished(parent)

    def make() -> tuple[int, str]:
        name = tempfile.mkdtemp(prefix=UNFINISHED, dir=parent)
        return os.open(name, os.O_RDONLY), name

    lock, folder = _locked(make)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _locked(make: Callable[[], tuple[int, str]]) -> tuple[int, Path]:
    """Make a file or folder and lock it, for as long as its handle is open.

    The system lets go of the lock with the process, however that ends.
    """
    while True:
        handle, name = make()
        with contextlib.suppress(OSError):  # a file system without locks: nobody clears there
            fcntl.flock(handle, fcntl.LOCK_EX)
        if os.path.lexists(name):
            return handle, Path(name)
        os.close(handle)  # taken for a leftover before it was locked


def clear_unfinished(folder: Path) -> None:
    """Remove what killed runs have left half-written in a folder, and nothing of living ones."""
    try:
        with os.scandir(folder) as entries:
            found = [entry.path for entry in entries if _UNFINISHED_NAME.fullmatch(entry.name)]
    except OSError:
        return
    for path in found:
        with contextlib.suppress(OSError):  # another's, in use, or gone
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                if os.fstat(handle).st_uid == os.geteuid():
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    _remove(Path(path))
            finally:
                os.close(handle)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink()


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Say which file it was for which there is no room: the system's error does not.

    Raises:
        ArtifactError: the disk is full, or a quota.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        raise ArtifactError(
            f"cannot write {str(path)!r}: {error.strerror}; free some space, or write elsewhere"
        ) from error
