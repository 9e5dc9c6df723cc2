import io
import os
from pathlib import Path

import pytest

from stdeploy.errors import BackendError
from stdeploy.serve.errors import RequestError
from stdeploy.serve.uploads import Budget, UploadFolder, VideoBody
from stdeploy.video.containers import container_of

MP4 = b"\0\0\0\x20ftypisom" + bytes(range(256)) * 8


def form(*parts: tuple[str, bytes], boundary: str = "b") -> bytes:
    body = b""
    for disposition, content in parts:
        body += f"--{boundary}\r\nContent-Disposition: form-data; {disposition}\r\n\r\n".encode()
        body += content + b"\r\n"
    return body + f"--{boundary}--\r\n".encode()


def received(content_type: str, content: bytes, step: int, most: int = 100_000) -> VideoBody:
    body = VideoBody(content_type, io.BytesIO(), max_bytes=most)
    for start in range(0, len(content), step):
        body.feed(content[start : start + step])
    body.end()
    return body


@pytest.mark.parametrize("step", [1, 7, 100_000])
def test_a_form_gives_the_bytes_of_its_file_and_its_fields(step: int) -> None:
    content = form(
        ('name="top_k"', b"3"), ('name="file"; filename="a.mp4"', MP4), ('name="views"', b"2")
    )
    body = received("multipart/form-data; boundary=b", content, step)
    assert body._file.getvalue() == MP4  # type: ignore[attr-defined]
    assert body.fields == {"top_k": "3", "views": "2"}
    assert body.received_bytes == len(content)


@pytest.mark.parametrize(
    "disposition",
    [
        "name=file; filename*=UTF-8''%e2%82%ac.mp4",
        'name="file"; filename="e.mp4"; filename*=UTF-8\'\'%e2%82%ac.mp4',
        'name="file"; filename=""',
        "filename*0=a; filename*1=.mp4; name=file",
    ],
)
def test_a_part_with_a_name_in_any_spelling_is_the_video(disposition: str) -> None:
    body = received("multipart/form-data; boundary=b", form((disposition, MP4)), 100_000)
    assert body._file.getvalue() == MP4  # type: ignore[attr-defined]


def test_a_name_that_only_looks_like_one_of_a_file_is_a_field() -> None:
    content = form(('name="a; filename*=b"', b"1"), ('filename="a.mp4"', MP4))
    assert received("multipart/form-data; boundary=b", content, 7).fields == {"a; filename*=b": "1"}


@pytest.mark.parametrize("kind", ["video/mp4", "VIDEO/WEBM", "application/octet-stream; x=y"])
@pytest.mark.parametrize("step", [1, 100_000])
def test_a_raw_body_is_the_video(kind: str, step: int) -> None:
    assert received(kind, MP4, step)._file.getvalue() == MP4  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("kind", "content", "code"),
    [
        ("multipart/form-data; boundary=b", form(("name=a", b"1" * 2000)), "bad_request"),
        (
            "multipart/form-data; boundary=b",
            form(*[(f"name=a{n}", b"1") for n in range(17)]),
            "bad_request",
        ),
        ("multipart/form-data; boundary=b", form(*[("name=a", b"1")] * 2), "invalid"),
        ("multipart/form-data; boundary=b", form(('filename="x"', MP4))[:-4], "bad_request"),
        ("multipart/form-data; boundary=b", form(*[('filename="x"', MP4)] * 2), "bad_request"),
        (
            "multipart/form-data; boundary=b",
            form(('filename="x"', b"text" * 99)),
            "unsupported_type",
        ),
        ("multipart/form-data; boundary=c", form(('filename="x"', MP4)), "bad_request"),
        ("multipart/form-data", form(('filename="x"', MP4)), "bad_request"),
        ("multipart/form-data; boundary=" + "x" * 999, b"", "bad_request"),
        ("video/mp4", b"", "bad_request"),
        ("video/mp4", b"GIF", "unsupported_type"),
        ("video/mp4", MP4 + bytes(100_000), "too_large"),
        ("text/html", MP4, "unsupported_type"),
    ],
)
def test_other_bodies_are_refused(kind: str, content: bytes, code: str) -> None:
    with pytest.raises(RequestError) as refused:
        received(kind, content, 50)
    assert refused.value.code == code


@pytest.mark.parametrize("name", ["file", "video", ""])
def test_one_file_of_a_form_is_the_video_whatever_its_name(name: str) -> None:
    content = form((f'name="{name}"; filename="a.mp4"', MP4))
    body = received("multipart/form-data; boundary=b", content, 50)
    assert body._file.getvalue() == MP4  # type: ignore[attr-defined]
    assert body.fields == {}


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ([("name=file", b"video.mp4")], "holds no file; send .* in a part named 'file'"),
        ([("name=video", b"1" * 2000)], "'video' .* longer than 1024 bytes .* named 'file'"),
        ([('name="file"; filename="a.mp4"', b"")], "it is empty"),
        ([(f'name="{n}"; filename="a"', MP4) for n in ("file", "other")], "holds several files"),
    ],
)
def test_a_form_without_its_one_file_is_refused_in_words(
    parts: list[tuple[str, bytes]], words: str
) -> None:
    with pytest.raises(RequestError, match=words):
        received("multipart/form-data; boundary=b", form(*parts), 50)


def test_a_budget_comes_back_when_its_holder_is_done() -> None:
    budget = Budget(100)
    with budget.account("a") as hold:
        hold(45)
        with budget.account("b") as other:
            other(27)
            with budget.account("c") as third, pytest.raises(RequestError, match="no room"):
                third(15)
        hold(5)
    with budget.account("a") as hold:
        hold(50)


def test_a_client_may_hold_as_much_as_it_leaves_free() -> None:
    budget = Budget(100)
    with budget.account("a") as first, budget.account("a") as second:
        first(30)
        second(20)
        with pytest.raises(RequestError, match="no room"):
            second(1)
        with budget.account("b") as other:
            other(25)
            with pytest.raises(RequestError, match="no room"):
                other(1)
            with budget.account("c") as third:
                third(12)


def test_a_folder_of_someone_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    target = tmp_path / "elsewhere"
    target.mkdir()
    (tmp_path / f"stdeploy-uploads-{os.getuid()}").symlink_to(target)
    with pytest.raises(BackendError, match="no folder of this user"):
        UploadFolder()
    assert list(target.iterdir()) == []


def test_a_running_server_keeps_its_uploads_when_another_starts(tmp_path: Path) -> None:
    with UploadFolder(tmp_path) as first, first.new_file() as (path, _):
        with UploadFolder(tmp_path) as second:
            assert path.exists()
            assert second.path != first.path
        assert path.exists()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("head", "container"),
    [
        (b"\0\0\0\x18ftypmp42", "MP4 or QuickTime"),
        (b"\0\0\0\x08wide", "MP4 or QuickTime"),
        (b"\x1aE\xdf\xa3", "Matroska or WebM"),
        (b"RIFF\0\0\0\0AVI LIST", "AVI"),
        (b"RIFF\0\0\0\0WAVE", None),
        (b"G" + bytes(187) + b"G" + bytes(187), "MPEG transport stream"),
        (bytes(4) + b"G" + bytes(191) + b"G", "MPEG transport stream"),
        (b"G" + bytes(300), None),
        (b"\0\0\0\x01\x67", "H.264, HEVC or MPEG-4 video"),
        (b"\x89PNG\r\n\x1a\n", None),
        (b"\x89PNG\r\n\x1a\n" + bytes(25) + b"\0\0\0\x08acTL", "APNG"),
        (b"YUV4MPEG2 W64 H48\n", "Y4M"),
        (b"DHAV\xfd", "Dahua DAV"),
        (bytes.fromhex("060e2b34020501010d01020101020400"), "MXF"),
        (b"\xff\xd8\xff\xe0", None),
        (b"ffconcat version 1.0\n", None),
        (b"#EXTM3U\n", None),
        (b"v=0\no=- 0 0 IN IP4 127.0.0.1\n", None),
        (b"", None),
    ],
)
def test_containers_are_known_by_their_first_bytes(head: bytes, container: str | None) -> None:
    assert container_of(head) == container
