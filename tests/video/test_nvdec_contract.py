"""Our use of PyNvVideoCodec against the real package, without a GPU.

With an empty library in place of the driver its bindings import, and tell their signatures; what
reads packets needs no GPU, so the files of the tests are opened by it.
"""

import json
import os
import shutil
import subprocess
import sys
import zipfile

import pytest

from tests.helpers.odd_videos import ODD_VIDEOS

pytestmark = pytest.mark.slow

REQUIREMENT = "PyNvVideoCodec~=2.2.4"
# What the bindings import from the driver; nothing of it is called here.
SYMBOLS = (
    *("cuCtxCreate_v2", "cuCtxDestroy_v2", "cuCtxGetDevice", "cuCtxPopCurrent_v2"),
    *("cuCtxPushCurrent_v2", "cuDeviceGet", "cuDeviceGetCount", "cuDevicePrimaryCtxRelease_v2"),
    *("cuDevicePrimaryCtxRetain", "cuEventCreate", "cuEventDestroy_v2", "cuEventRecord"),
    *("cuEventSynchronize", "cuGetErrorName", "cuGetErrorString", "cuInit", "cuMemAllocAsync"),
    *("cuMemAllocPitch_v2", "cuMemAlloc_v2", "cuMemFreeAsync", "cuMemFree_v2"),
    *("cuMemcpy2DAsync_v2", "cuMemcpy2D_v2", "cuMemcpyDtoHAsync_v2", "cuMemcpyDtoH_v2"),
    *("cuMemcpyHtoD_v2", "cuPointerGetAttribute", "cuStreamCreate", "cuStreamDestroy_v2"),
    *("cuStreamGetCtx", "cuStreamSynchronize", "cuStreamWaitEvent"),
)
SEEN = """
import importlib.util, json, sys
from pathlib import Path
from stdeploy.video import nvdec
from stdeploy.video.reader import VideoReader

(binary,) = Path(sys.argv[1]).glob("PyNvVideoCodec/PyNvVideoCodec_130.*.so")
spec = importlib.util.spec_from_file_location("_PyNvVideoCodec", binary)
real = importlib.util.module_from_spec(spec)
spec.loader.exec_module(real)
signatures = {
    name: getattr(real, name).__doc__
    for name in ("CreateDemuxer", "CreateDecoder", "GetDecoderCaps")
}
signatures |= {
    f"{kind}.{name}": getattr(getattr(real, kind), name).__doc__
    for kind, names in {
        "PyNvDecoder": ("Decode",),
        "PyNvDemuxer": ("Demux", "Seek"),
        "DecodedFrame": ("getPTS", "__dlpack__", "__dlpack_device__"),
    }.items()
    for name in names
}
members = {
    name: list(getattr(real, name).__members__)
    for name in ("cudaVideoCodec", "cudaVideoChromaFormat", "OutputColorType")
}

class Opened:
    # What a driver would say, and else the real one.
    def __getattr__(self, name):
        return getattr(real, name)

    def GetDecoderCaps(self, gpuid, codec, chromaformat, bitdepth):
        assert isinstance(codec, real.cudaVideoCodec)
        assert isinstance(chromaformat, real.cudaVideoChromaFormat)
        most = {"width_max": 4096, "height_max": 4096}
        return {"num_decoder_engines": 1, "width_min": 16, "height_min": 16, **most}

files = {}
for path in sorted(Path(sys.argv[2]).iterdir()):
    index = VideoReader(path)._index
    try:
        stream = nvdec._open(Opened(), path, index)
        source = real.CreateDemuxer(str(path))
        packet = source.Seek(len(stream._times) - 1)
        assert packet.key and packet.bsl and packet.pts in stream._seconds
        files[path.name] = ""
    except nvdec.LeavesGpuError as error:
        files[path.name] = str(error)
print(json.dumps([signatures, members, files]))
"""


@pytest.fixture(scope="module")
def seen(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, str]]:
    """Signatures, members of enumerations, and why files are refused."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler here to make an empty library with")
    folder, videos = tmp_path_factory.mktemp("nvdec"), tmp_path_factory.mktemp("videos")
    wheels = request.config.cache.mkdir("pynvvideocodec")
    if not list(wheels.glob("*.whl")):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", REQUIREMENT]
        if subprocess.run(command, cwd=wheels, capture_output=True, check=False).returncode:
            pytest.skip(f"{REQUIREMENT} cannot be downloaded here")
    with zipfile.ZipFile(next(wheels.glob("*.whl"))) as wheel:
        wheel.extractall(folder)
    source = folder / "empty.c"
    source.write_text("".join(f"int {symbol}(void) {{ return 100; }}\n" for symbol in SYMBOLS))
    library = ["-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", str(folder / "libcuda.so.1")]
    subprocess.run(["cc", str(source), *library], check=True)
    for name in FILES:
        ODD_VIDEOS[name](videos / name)
    result = subprocess.run(
        [sys.executable, "-c", SEEN, str(folder), str(videos)],
        env={**os.environ, "LD_LIBRARY_PATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    found: list[dict[str, str]] = json.loads(result.stdout.splitlines()[-1])
    return found


# Files of the tests, and why one is refused, with every codec on the chip.
FILES = {
    **dict.fromkeys(("h264.mp4", "h264-b-frames.mp4", "h264-b-frames.mkv", "h264-fragmented.mp4")),
    **dict.fromkeys(("hevc.mp4", "av1.mkv", "av1.mp4", "vp8.webm", "vp9.webm", "rotated-90.mp4")),
    **dict.fromkeys(("mpeg4-b-frames.mp4", "variable-rate.mp4", "variable-rate.mkv")),
    **dict.fromkeys(("later-start.mp4", "no-duration.webm", "cover-picture.mp4", "one-frame.mp4")),
    "odd-size.mkv": "its frames are yuv444p, not 4:2:0 in 8 bits",
    "mpeg4.avi": "its container is AVI, not MP4, QuickTime, Matroska or WebM",
}


@pytest.mark.parametrize("name", FILES)
def test_it_sees_the_packets_that_we_see(seen: list[dict[str, str]], name: str) -> None:
    assert seen[2][name] == (FILES[name] or "")


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        ("CreateDemuxer", ["filename: str"]),
        (
            "CreateDecoder",
            ["gpuid: int", "codec: _Py", "usedevicememory: bool", "outputColorType: _Py"],
        ),
        (
            "GetDecoderCaps",
            ["gpuid: int", "codec: _Py", "chromaformat: _Py", "bitdepth: int", "Dict[str, int]"],
        ),
        ("PyNvDecoder.Decode", ["PacketData", "List[_PyNvVideoCodec.DecodedFrame]"]),
        ("PyNvDemuxer.Demux", ["-> _PyNvVideoCodec.PacketData"]),
        ("PyNvDemuxer.Seek", ["arg0: int", "-> _PyNvVideoCodec.PacketData"]),
        ("DecodedFrame.getPTS", ["-> int"]),
        ("DecodedFrame.__dlpack__", ["stream: object", "-> capsule"]),
        ("DecodedFrame.__dlpack_device__", ["-> tuple"]),
    ],
)
def test_signatures_are_those_that_we_use(
    seen: list[dict[str, str]], function: str, arguments: list[str]
) -> None:
    for argument in arguments:
        assert argument in seen[0][function]


def test_names_are_those_that_we_use(seen: list[dict[str, str]]) -> None:
    from stdeploy.video import nvdec

    assert set(nvdec._CODECS) <= set(seen[1]["cudaVideoCodec"])
    assert nvdec._CHROMA_420 in seen[1]["cudaVideoChromaFormat"]
    assert "NATIVE" in seen[1]["OutputColorType"]
