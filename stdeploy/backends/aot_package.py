"""Packages of AOTInductor as files: compiled and written with their sidecar, or compiled again."""

import contextlib
import importlib.util
import io
import os
import subprocess
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor
from torch.utils import cpp_extension

from stdeploy.artifacts.aot_sidecar import AotSidecar
from stdeploy.artifacts.card import ModelCard
from stdeploy.artifacts.files import existing, sha256_of, unfinished_folder, whole_file
from stdeploy.artifacts.sidecar import move_with_sidecar
from stdeploy.backends.base import DeviceType
from stdeploy.backends.torch import network_on
from stdeploy.backends.torch_epilogues import program_of
from stdeploy.backends.torch_execution import exact, quiet
from stdeploy.errors import ArtifactError, BackendError
from stdeploy.hardware import cpu_name, gpus
from stdeploy.models.base import ActionModel
from stdeploy.models.checkpoint import load_model
from stdeploy.models.planar import planar_form


def host_of(device: DeviceType) -> tuple[str, str]:
    """What compiled code has to be for on this host, and the GPU or processor in words.

    Raises:
        BackendError: a GPU is asked for, and torch sees none.
    """
    if device == "cpu":
        # Code for a processor uses what it has and others may lack.
        return cpu_name(), cpu_name()
    if not gpus() or not torch.cuda.is_available():
        raise BackendError(
            "CUDA was asked for, but torch sees no NVIDIA GPU; see stdeploy doctor, or compile for "
            "this processor: --device cpu"
        )
    return gpus()[0].target, gpus()[0].name


def write_package(
    fused: Path,
    model: ActionModel,
    card: ModelCard,
    path: Path,
    *,
    device: DeviceType,
    batch: int,
    autotune: bool,
) -> AotSidecar:
    """Compile a fused network, and write the package and its sidecar, without parity rows yet.

    Args:
        fused: the file that it comes from.
        model: in fp32, in the form to compile; its trunk is changed in place for other precisions.
        card: of the package, with its precision and form.
        path: where the package goes; its sidecar goes beside it.
        device: what it is compiled for, of this host.
        batch: clips that kernels are chosen for.
        autotune: time every kernel there is, which takes minutes.

    Raises:
        BackendError: torch cannot compile here.
    """
    target, _name = host_of(device)
    graph = network_on(device, model, card.clip, card.precision)
    configuration = {"max_autotune": True, "conv_1x1_as_mm": True} if autotune else {}
    with whole_file(path) as temporary:
        content = io.BytesIO()
        try:
            with exact(), quiet(), cuda_headers(device):
                torch._inductor.aoti_compile_and_package(
                    program_of(graph, card.clip, then="compiled", batch=batch),
                    package_path=content,
                    inductor_configs=configuration,
                )
        except BackendError:
            raise
        except Exception as error:  # of a compiler, of torch, of Triton
            reason = next((line for line in str(error).splitlines() if line.strip()), "no reason")
            raise BackendError(
                f"torch cannot compile {fused.name!r} here: {type(error).__name__}: "
                f"{reason[:300]}; AOTInductor needs a C++ compiler (g++), and for GPUs the headers "
                "of CUDA"
            ) from error
        temporary.write_bytes(content.getvalue())
        sidecar = AotSidecar(
            card=card,
            package_sha256=sha256_of(temporary),
            torch=torch.__version__,
            gpu=gpus()[0].name if device == "cuda" else None,
            target=target,
            batch=batch,
            autotuned=autotune,
            fused=fused.name,
            fused_sha256=sha256_of(fused),
        )
        # Before the package takes its name: between the two, the digests differ and nothing loads.
        sidecar.write(path)
    return sidecar


# What the code that AOTInductor writes for GPUs includes of CUDA.
_CUDA_HEADERS = ("cuda.h", "cuda_runtime.h", "cuda_bf16.h", "cuda_fp16.h", "cuda_fp8.h")


@contextlib.contextmanager
def cuda_headers(device: DeviceType) -> Iterator[None]:
    """Let a compiler find the headers of CUDA: those of a toolkit, or of NVIDIA's pip packages.

    They are tried first: torch would miss them only when it has made all kernels. Its wheels bring
    nvidia-cuda-runtime, whose headers include some of nvidia-cuda-crt, which they do not bring.

    Args:
        device: what is compiled for; "cpu" needs none.

    Raises:
        BackendError: there are none, or no compiler.
    """
    if device == "cpu":
        yield
        return
    home, search = cpp_extension.CUDA_HOME, os.environ.get("CPATH")
    found = pip_headers()
    if found:  # after those of a toolkit, which torch names on the command line
        os.environ["CPATH"] = os.pathsep.join([*map(str, found), *([search] if search else [])])
        cpp_extension.CUDA_HOME = home or str(found[0].parent)
    try:
        home_now = cpp_extension.CUDA_HOME
        check_compiler([f"{home_now}/include"] if home_now else [], _CUDA_HEADERS)
        yield
    finally:
        cpp_extension.CUDA_HOME = home
        if found and search is None:
            del os.environ["CPATH"]
        elif search is not None:
            os.environ["CPATH"] = search


def pip_headers() -> list[Path]:
    """Folders of headers of CUDA that pip has put beside torch, nvidia/cu13/include."""
    spec = importlib.util.find_spec("nvidia")
    places = [] if spec is None else list(spec.submodule_search_locations or [])
    name = f"cu{(torch.version.cuda or '').partition('.')[0]}"
    folders = [Path(place) / name / "include" for place in places]
    return [folder for folder in folders if folder.is_dir()]


def check_compiler(folders: Sequence[str], headers: Sequence[str]) -> None:
    """See that the C++ compiler is there, and finds headers.

    Args:
        folders: that it is to look in, beside its own.
        headers: what is to be found.

    Raises:
        BackendError: it does not, or is not installed.
    """
    compiler = os.environ.get("CXX", "g++")
    command = [compiler, "-fsyntax-only", "-x", "c++", "-"]
    command += [f"-I{folder}" for folder in folders]
    source = "".join(f"#include <{header}>\n" for header in headers)
    try:
        result = subprocess.run(command, input=source, capture_output=True, text=True, check=False)
    except OSError as error:
        raise BackendError(
            f"AOTInductor needs a C++ compiler, and {compiler!r} cannot be started: "
            f"{error.strerror}; install g++"
        ) from error
    if result.returncode:
        lines = [line for line in result.stderr.splitlines() if "error:" in line]
        reason = (lines or [result.stderr.strip() or "no reason"])[0]
        raise BackendError(
            f"AOTInductor needs the headers of CUDA to compile for a GPU: {reason[:200]}; install "
            "the CUDA toolkit and set CUDA_HOME, or run: pip install nvidia-cuda-crt"
        )


def load_package(content: bytes) -> Callable[[Tensor], Tensor]:
    """What a package computes; its code is loaded into this process.

    Args:
        content: the bytes of the package, which have been compared with the sidecar.

    Raises:
        ArtifactError: torch cannot load it.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Without locks of its own, which a CUDA graph could not record.
            package = torch._inductor.aoti_load_package(
                io.BytesIO(content), run_single_threaded=True
            )
    except Exception as error:  # RuntimeError and others, by what is missing
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ArtifactError(f"torch cannot load this package: {reason[:300]}") from error
    return cast(Callable[[Tensor], Tensor], package)


@contextlib.contextmanager
def rebuilt(package: Path, sidecar: AotSidecar) -> Iterator[Path]:
    """Compile a package again for this host, from the fused file beside it.

    Yields:
        The new package in a folder beside the old one, which it replaces when the block ends
        without an error.

    Raises:
        ArtifactError: that file is not there, or is another one.
        BackendError: this host cannot compile it.
    """
    fused = existing(package.with_name(sidecar.fused))
    if sha256_of(fused) != sidecar.fused_sha256:
        raise ArtifactError(
            f"{str(fused)!r} is not the file that {package.name!r} was compiled from; run: "
            f"{sidecar.rebuild_command(package)}"
        )
    model, _card = load_model(fused)
    card = sidecar.card.model_copy(update={"parity": ()})
    if card.form == "planar":
        model = planar_form(model, card.clip.num_frames)
    with unfinished_folder(package.parent) as folder:
        unproven = folder / package.name
        write_package(
            fused,
            model,
            card,
            unproven,
            device="cpu" if sidecar.gpu is None else "cuda",
            batch=sidecar.batch,
            autotune=sidecar.autotuned,
        )
        yield unproven
        move_with_sidecar(unproven, package)
