"""Artifacts as models of Triton Inference Server: folders, labels and config.pbtxt.

    DIR/<name>/config.pbtxt
    DIR/<name>/labels.txt
    DIR/<name>/1/model.onnx    or model.plan, which is an engine

All versions of a model share its config.pbtxt and its labels.txt, and Triton serves the newest
unless it is told otherwise. So an artifact that takes and gives the same as what is there becomes
the next version, beside the others: clients go on, and the old one can be served again. One with
another clip, other labels or other batches is refused, because the files would no longer describe
the versions that are there.
"""

import contextlib
import dataclasses
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from stdeploy.artifacts.card import ModelCard, read_card
from stdeploy.artifacts.engine_sidecar import EngineSidecar
from stdeploy.artifacts.files import (
    ENGINE_SUFFIX,
    ONNX_SUFFIX,
    existing,
    sha256_of,
    unfinished_folder,
    whole_file,
)
from stdeploy.artifacts.spec import Precision
from stdeploy.errors import ArtifactError, SpecError

_CONFIG = "config.pbtxt"
_LABELS = "labels.txt"
_DIGEST = "artifact_sha256"
_MOST_DELAY_MICROSECONDS = 5_000
# Triton passes over folders whose names begin with a zero.
_VERSION = re.compile(r"[1-9][0-9]*")
# Names are folders, and parts of URLs.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")


class _Symbol(str):
    """The name of an enum's value, which is written without quotes."""

    __slots__ = ()


_Scalar = str | int | bool
_Fields = Sequence[tuple[str, "_Scalar | Sequence[int] | _Message"]]


@dataclasses.dataclass(frozen=True)
class _Message:
    """Fields of a message inside another, in order."""

    fields: _Fields


@dataclasses.dataclass(frozen=True)
class TritonModel:
    """A version of a model in a repository.

    Attributes:
        folder: of the version, DIR/<name>/<version>.
        added: False if it held this artifact already.
        note: what the server has to be; empty for an .onnx file.
    """

    folder: Path
    added: bool
    note: str = ""


def write_triton(
    artifact: Path, repository: Path, *, name: str | None = None, batches: tuple[int, int] = (1, 8)
) -> TritonModel:
    """Put an artifact into a model repository, as a new model or as its next version.

    A model or a version appears as a whole or not at all. The artifact that is the newest version
    already is left alone.

    Args:
        artifact: a .onnx file, or an .engine with its sidecar.
        repository: Triton's --model-repository; made if it is not there.
        name: of the model; None takes the artifact's, without its suffix.
        batches: of an .onnx file, the batch to wait for and the largest. An engine has its own.

    Raises:
        ArtifactError: the artifact cannot be used, or the repository holds another model of this
            name.
        SpecError: a name that cannot be a folder and part of a URL, impossible batches, or
            nothing on Triton runs the artifact.
    """
    name = _checked_name(name if name is not None else artifact.name.removesuffix(artifact.suffix))
    card, batches, note = _described(artifact, batches)
    best, largest = batches
    if not 1 <= best <= largest:
        raise SpecError(f"batches {best},{largest}: need 1 <= best <= largest")
    is_engine = artifact.suffix == ENGINE_SUFFIX
    file = "model.plan" if is_engine else "model.onnx"
    shared, tunable = _config(name, card, batches, is_engine=is_engine)
    labels = "".join(f"{label}\n" for label in card.labels)
    model = repository / name
    try:
        repository.mkdir(parents=True, exist_ok=True)
        if not model.exists():
            # Triton also looks into folders whose names begin with a dot, but only while it polls;
            # then it complains of this one until it has its name.
            with _appearing(model) as folder:
                digest = _put(artifact, folder / "1" / file)
                lines = [*shared, *tunable, _digest_line(1, digest)]
                (folder / _CONFIG).write_text(_text(lines), encoding="utf-8")
                (folder / _LABELS).write_text(labels, encoding="utf-8", newline="\n")
            return TritonModel(model / "1", added=True, note=note)
        config = _checked_config(model, shared, labels)
        names = (folder.name for folder in model.iterdir())
        newest = max((int(name) for name in names if _VERSION.fullmatch(name)), default=0)
        held = model / str(newest) / file
        if held.is_file() and sha256_of(held) == sha256_of(artifact):
            return TritonModel(held.parent, added=False, note=note)
        version = newest + 1
        with _appearing(model / str(version)) as folder:
            digest = _put(artifact, folder / file)
        with whole_file(model / _CONFIG) as temporary:
            lines = [config.rstrip("\n"), _digest_line(version, digest)]
            temporary.write_text(_text(lines), encoding="utf-8")
    except OSError as error:
        raise ArtifactError(f"cannot write to {str(model)!r}: {error.strerror}") from error
    return TritonModel(model / str(version), added=True, note=note)


def check_planned(
    name: str | None, precision: Precision, *, engine: bool, ahead_of_time: bool
) -> None:
    """Check what is known of a model before its artifact is made.

    Args:
        name: of the model, if one was given.
        precision: of the artifact.
        engine: whether it is one.
        ahead_of_time: whether TensorRT-RTX builds it.

    Raises:
        SpecError: a name that cannot be, or Triton has nothing that runs the artifact.
    """
    if name is not None:
        _checked_name(name)
    if ahead_of_time:
        raise SpecError(
            "Triton runs engines of TensorRT, not of TensorRT-RTX; build one on the GPU host: "
            "pip install 'stdeploy[trt]' and leave --target out"
        )
    if precision == "bf16" and not engine:
        raise SpecError(
            "Triton runs .onnx files by ONNX Runtime, which has no convolution in bf16; export "
            "with --precision fp16, or build an engine: --trt"
        )


def _checked_name(name: str) -> str:
    """The same name, if a model can have it.

    Raises:
        SpecError: it cannot.
    """
    if not _NAME.fullmatch(name):
        raise SpecError(
            f"a model of Triton cannot be named {name!r}: letters, digits and ._- are allowed, "
            "and the first is no dot or dash; give another: --name"
        )
    return name


def _described(artifact: Path, batches: tuple[int, int]) -> tuple[ModelCard, tuple[int, int], str]:
    """Card, batches, and what the server has to be.

    Raises:
        ArtifactError: it is not usable, or of a kind that Triton does not run.
        SpecError: nothing on Triton runs it.
    """
    if artifact.suffix == ONNX_SUFFIX:
        card = read_card(artifact)
        card.check_whole_clips("a model on Triton")
        check_planned(None, card.precision, engine=False, ahead_of_time=False)
        return card, batches, ""
    if artifact.suffix == ENGINE_SUFFIX:
        sidecar = EngineSidecar.read(artifact)
        check_planned(
            None,
            sidecar.card.precision,
            engine=True,
            ahead_of_time=sidecar.distribution == "tensorrt_rtx",
        )
        needs = f"runs on Triton with TensorRT {sidecar.version} on {sidecar.gpu}"
        if sidecar.version_compatible:
            needs += ", or newer with --backend-config=tensorrt,version-compatible=true"
        return sidecar.card, sidecar.batches, needs
    raise ArtifactError(
        f"{str(existing(artifact))!r} is nothing that Triton runs; give an {ONNX_SUFFIX} or an "
        f"{ENGINE_SUFFIX} file"
    )


def _config(
    name: str, card: ModelCard, batches: tuple[int, int], *, is_engine: bool
) -> tuple[list[str], list[str]]:
    """The lines of config.pbtxt: those that clients rely on, and those to be tuned.

    One field of the outer message is one line, so that lines can be compared.
    """
    clip = card.clip
    best, largest = batches
    dims = list(card.input_shape)
    data_type = _Symbol("TYPE_UINT8" if card.input_type == "uint8" else "TYPE_FP32")
    facts = {
        "architecture": card.model.architecture,
        "precision": card.precision,
        **{f"clip.{key}": str(value) for key, value in clip.model_dump(mode="json").items()},
    }
    shared: _Fields = [
        ("name", name),
        ("platform", "tensorrt_plan" if is_engine else "onnxruntime_onnx"),
        ("max_batch_size", largest),
        (
            "input",
            _Message([("name", "frames"), ("data_type", data_type), ("dims", dims)]),
        ),
        (
            "output",
            _Message(
                [
                    ("name", "logits"),
                    ("data_type", _Symbol("TYPE_FP32")),
                    ("dims", [card.model.num_classes]),
                    ("label_filename", _LABELS),
                ]
            ),
        ),
        *(("parameters", _parameter(key, value)) for key, value in facts.items()),
    ]
    tunable: list[tuple[str, _Message]] = []
    if largest > 1:
        # A single clip is no batch to wait for.
        preferred = sorted({best, largest} - {1})
        tunable.append(
            (
                "dynamic_batching",
                _Message(
                    [
                        ("preferred_batch_size", preferred),
                        ("max_queue_delay_microseconds", _MOST_DELAY_MICROSECONDS),
                    ]
                ),
            )
        )
    kind = "KIND_GPU" if is_engine else "KIND_AUTO"
    tunable.append(("instance_group", _Message([("count", 1), ("kind", _Symbol(kind))])))
    # Both ends: the first batch of a size costs a runtime more than the later ones.
    frames = _Message([("data_type", data_type), ("dims", dims), ("random_data", True)])
    inputs = _Message([("key", "frames"), ("value", frames)])
    for size in sorted({1, largest}):
        warmup = _Message([("name", f"batch {size}"), ("batch_size", size), ("inputs", inputs)])
        tunable.append(("model_warmup", warmup))
    return [_field(*field) for field in shared], [_field(*field) for field in tunable]


def _parameter(key: str, value: str) -> _Message:
    return _Message([("key", key), ("value", _Message([("string_value", value)]))])


def _digest_line(version: int, digest: str) -> str:
    return _field("parameters", _parameter(f"{_DIGEST}.{version}", digest))


def _checked_config(model: Path, shared: Sequence[str], labels: str) -> str:
    """The config.pbtxt of a model that is there, if it also describes the new version.

    Raises:
        ArtifactError: it does not, or its labels are others.
    """
    way_out = "give the new one another name (--name), or another repository"
    try:
        config = (model / _CONFIG).read_text(encoding="utf-8")
        # Not read_text: labels may hold carriage returns, which are no ends of lines here.
        held_labels = (model / _LABELS).read_bytes()
    except (FileNotFoundError, NotADirectoryError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{str(model)!r} holds no model of stdeploy; {way_out}") from error
    there = set(config.splitlines())
    for line in shared:
        if line not in there:
            raise ArtifactError(
                f"{str(model / _CONFIG)!r} lacks the line of this artifact `{line}`, and all "
                f"versions of a model share it; {way_out}"
            )
    if held_labels != labels.encode():
        raise ArtifactError(
            f"{str(model / _LABELS)!r} names other classes, and all versions of a model share "
            f"it; {way_out}"
        )
    return config


def _put(artifact: Path, target: Path) -> str:
    """Copy an artifact into a folder that is made for it.

    Returns:
        Digest of what was copied.

    Raises:
        ArtifactError: an engine is not the file that its sidecar describes.
    """
    target.parent.mkdir(exist_ok=True)
    if artifact.suffix == ENGINE_SUFFIX:
        target.write_bytes(EngineSidecar.read(artifact).read_code(artifact))
    else:
        shutil.copyfile(artifact, target)
    return sha256_of(target)


@contextlib.contextmanager
def _appearing(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder` that takes its name when the block ends without an error.

    Raises:
        ArtifactError: another process has made `folder` meanwhile.
    """
    with unfinished_folder(folder.parent) as temporary:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o777 & ~umask)  # mkdtemp makes folders private
        try:
            temporary.rename(folder)
        except OSError as error:
            if not folder.exists():
                raise
            raise ArtifactError(
                f"{str(folder)!r} has been written by another process meanwhile; run this again"
            ) from error


def _text(lines: Sequence[str]) -> str:
    return "\n".join(lines) + "\n"


def _field(name: str, value: "_Scalar | Sequence[int] | _Message") -> str:
    """A field in the text format of protocol buffers, on one line."""
    match value:
        case _Message():
            inside = " ".join(_field(*field) for field in value.fields)
            return f"{name} {{ {inside} }}"
        case bool():  # before int, whose kind it is
            return f"{name}: {str(value).lower()}"
        case _Symbol() | int():
            return f"{name}: {value}"
        case str():
            return f'{name}: "{_escaped(value)}"'
        case _:
            return f"{name}: [ {', '.join(map(str, value))} ]"


def _escaped(text: str) -> str:
    """Inside of a quoted string: quotes, backslashes and what does not print as octal bytes."""
    signs = []
    for sign in text:
        if sign in '"\\' or not sign.isprintable():
            signs += [f"\\{byte:03o}" for byte in sign.encode()]
        else:
            signs.append(sign)
    return "".join(signs)
