"""Downloads against a real HTTP server on loopback that speaks ranges."""

import hashlib
import http.server
import io
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from stdeploy.errors import DownloadError
from stdeploy.pull.download import Package, fetch, fetch_member

MEMBER = bytes(range(256)) * 4000


def wheel() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(zipfile.ZipInfo("pkg/data.bin"), MEMBER)
    return buffer.getvalue()


class Index(http.server.ThreadingHTTPServer):
    """A package index with one project; counts bytes and can cut downloads off."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {"pkg-1.0-py3-none-any.whl": wheel()}
        self.ranges: list[str | None] = []
        self.cut_after: int | None = None
        self.credentials: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/simple"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Index

    def do_GET(self) -> None:
        self.server.credentials.append(self.headers.get("Authorization"))
        if self.path == "/simple/pkg/":
            links = "".join(
                f'<a href="../../files/{name}#sha256=0">{name}</a>' for name in self.server.files
            )
            self._send(200, f"<html><body>{links}</body></html>".encode())
            return
        content = self.server.files.get(self.path.removeprefix("/files/"))
        if content is None:
            self.send_error(404)
            return
        asked = self.headers.get("Range")
        self.server.ranges.append(asked)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        self._send(206 if asked else 200, content[start:])

    def _send(self, status: int, content: bytes) -> None:
        self.send_response(status)
        cut = self.server.cut_after
        if cut is not None and self.path.startswith("/files/"):
            content = content[:cut]  # no Content-Length: the client sees an early end
        else:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Index]:
    server = Index()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("PIP_INDEX_URL", server.url)
    monkeypatch.setenv("STDEPLOY_CACHE", str(tmp_path / "cache"))
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def package(**changes: object) -> Package:
    content = wheel()
    fields = {
        "project": "pkg",
        "file_name": "pkg-1.0-py3-none-any.whl",
        "sha256": hashlib.sha256(content).hexdigest(),
        "size_bytes": len(content),
        "member": "pkg/data.bin",
        "member_sha256": hashlib.sha256(MEMBER).hexdigest(),
        "licence": "MIT",
        "origin": "a test",
    }
    return Package(**{**fields, **changes})


def test_fetched_once_and_kept(index: Index, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    assert fetch_member(package(), lambda done, total: told.append((done, total))) == MEMBER
    assert told[-1] == (len(wheel()), len(wheel()))
    assert fetch_member(package()) == MEMBER
    assert index.ranges == [None]
    assert [p.name for p in (tmp_path / "cache").iterdir()] == ["pkg-1.0-py3-none-any.whl"]


def test_a_download_that_was_cut_off_goes_on_where_it_stopped(index: Index, tmp_path: Path) -> None:
    index.cut_after = 300_000
    with pytest.raises(DownloadError, match=r"cut off after 300000 of \d+ bytes"):
        fetch(package())
    assert [p.name for p in (tmp_path / "cache").iterdir()] == ["pkg-1.0-py3-none-any.whl.part"]
    index.cut_after = None
    assert fetch_member(package()) == MEMBER
    assert index.ranges == [None, "bytes=300000-"]


def test_an_altered_download_is_refused_and_deleted(index: Index, tmp_path: Path) -> None:
    index.files["pkg-1.0-py3-none-any.whl"] = wheel()[:-1] + b"!"
    with pytest.raises(DownloadError, match="altered on its way and has been deleted"):
        fetch(package())
    assert list((tmp_path / "cache").iterdir()) == []


def test_an_altered_cache_is_fetched_again(index: Index, tmp_path: Path) -> None:
    path = fetch(package())
    path.write_bytes(b"changed")
    assert fetch_member(package()) == MEMBER


def test_a_member_with_another_digest_is_refused(index: Index) -> None:
    with pytest.raises(DownloadError, match="is not the pinned file"):
        fetch_member(package(member_sha256="0" * 64))
    with pytest.raises(DownloadError, match=r"holds no 'pkg/none\.bin'"):
        fetch_member(package(member="pkg/none.bin"))


def test_members_of_source_packages_are_found(index: Index) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        info = tarfile.TarInfo("pkg-1.0/data.bin")
        info.size = len(MEMBER)
        archive.addfile(info, io.BytesIO(MEMBER))
    content = buffer.getvalue()
    index.files["pkg-1.0.tar.gz"] = content
    source = package(
        file_name="pkg-1.0.tar.gz",
        sha256=hashlib.sha256(content).hexdigest(),
        size_bytes=len(content),
        member="pkg-1.0/data.bin",
    )
    assert fetch_member(source) == MEMBER


def test_a_file_that_the_index_lacks_is_named(index: Index) -> None:
    with pytest.raises(DownloadError, match=r"does not list 'pkg-2\.0\.tar\.gz'"):
        fetch(package(file_name="pkg-2.0.tar.gz"))
    with pytest.raises(DownloadError, match="404"):
        fetch(package(project="other"))


def test_no_network_is_one_clear_line(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    with pytest.raises(DownloadError, match=r"Connection refused.*check the network.*cache") as e:
        fetch(package())
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("host", ["nowhere host", "[::1", "127.0.0.1:port"])
def test_addresses_that_are_none_are_one_line(
    index: Index, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", f"http://user:secret@{host}/simple")
    with pytest.raises(DownloadError, match="cannot fetch") as caught:
        fetch(package())
    assert "secret" not in str(caught.value)


def test_credentials_of_a_mirror_are_sent_and_not_shown(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", index.url.replace("//", "//user:se%40cret@"))
    assert fetch_member(package()) == MEMBER
    assert set(index.credentials) == {"Basic dXNlcjpzZUBjcmV0"}  # user:se@cret
    with pytest.raises(DownloadError) as caught:
        fetch(package(file_name="pkg-2.0.tar.gz"))
    assert "cret" not in str(caught.value)


def test_other_schemes_are_refused(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "file:///etc")
    with pytest.raises(DownloadError, match="no http address"):
        fetch(package())
