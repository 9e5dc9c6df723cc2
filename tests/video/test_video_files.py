import collections
import doctest
import os
from pathlib import Path

import pytest

from stdeploy.video import video_files
from stdeploy.video.video_files import PassedOver, holds_no_video, videos_in


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_hidden_folders_and_folders_with_the_name_of_a_video_hold_none(tmp_path: Path) -> None:
    wanted = ("a.MP4", "deep/b.mkv", "deep/er/c.webm", "d.mp4/e.avi")
    touch(tmp_path, *wanted, ".hidden/f.mp4", "deep/.git/g.mp4", "._a.mp4", "notes.txt")
    found = sorted(str(p.relative_to(tmp_path)) for p in videos_in(tmp_path, recursive=True))
    assert found == sorted(wanted)
    assert list(videos_in(tmp_path, recursive=False)) == [tmp_path / "a.MP4"]


def test_what_is_passed_over_is_counted_by_its_reason(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "a.TXT", "b.txt", "c.jpg", "README", ".DS_Store", "._a.mp4")
    touch(tmp_path, "more/b.M2TS", "more/d.txt", ".git/g.mp4", "elsewhere/x.mp4")
    (tmp_path / "more" / "link").symlink_to(tmp_path / "elsewhere")
    passed = PassedOver()
    found = sorted(videos_in(tmp_path, recursive=True, passed_over=passed))
    assert [path.name for path in found] == ["a.mp4", "x.mp4", "b.M2TS"]
    assert passed.to_record() == {
        "suffixes": {".txt": 3, "": 1, ".jpg": 1},
        "hidden": 3,
        "linked": 1,
        "unreadable": 0,
    }
    assert passed.total == 9
    assert passed.in_words() == (
        "passed over: 5 that are no videos by their names (3 .txt, 1 without a suffix, 1 .jpg), "
        "3 hidden, 1 link to folders"
    )


def test_folders_below_are_not_counted_where_they_are_not_looked_into(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.txt", ".git/g.txt", "more/c.txt")
    passed = PassedOver()
    assert list(videos_in(tmp_path, recursive=False, passed_over=passed)) == [tmp_path / "a.mp4"]
    assert passed == PassedOver(collections.Counter({".txt": 1}))


@pytest.mark.skipif(os.getuid() == 0, reason="root may read every folder")
def test_a_folder_that_cannot_be_read_is_counted(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "private/b.mp4")
    (tmp_path / "private").chmod(0)
    passed = PassedOver()
    try:
        found = list(videos_in(tmp_path, recursive=True, passed_over=passed))
    finally:
        (tmp_path / "private").chmod(0o700)
    assert found == [tmp_path / "a.mp4"]
    assert passed == PassedOver(unreadable=1)


def test_a_folder_that_is_gone_is_counted_as_one_that_cannot_be_read(tmp_path: Path) -> None:
    passed = PassedOver()
    assert list(videos_in(tmp_path / "gone", recursive=True, passed_over=passed)) == []
    assert passed.in_words() == "passed over: 1 folder that cannot be read"


def test_many_suffixes_are_told_by_the_commonest(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{number}.t{number}" for number in range(7)), "x.t0", "x.a-part-of-a-name")
    passed = PassedOver()
    assert not list(videos_in(tmp_path, recursive=True, passed_over=passed))
    assert holds_no_video(passed) == (
        "holds no video (passed over: 9 that are no videos by their names "
        "(2 .t0, 1 without a suffix, 1 .t1, 1 .t2, 1 .t3, 3 others))"
    )
    assert holds_no_video(PassedOver()) == "holds no video"


def test_examples() -> None:
    assert doctest.testmod(video_files).failed == 0
