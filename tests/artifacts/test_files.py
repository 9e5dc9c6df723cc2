import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stdeploy.artifacts.card import read_card
from stdeploy.artifacts.files import (
    checked_output,
    existing,
    fused_path,
    newest,
    onnx_path,
    unfinished_folder,
    whole_file,
)
from stdeploy.errors import ArtifactError
from tests.helpers.full_disk import files_of_at_most


def test_names_follow_the_chain() -> None:
    fused = fused_path(Path("runs/ckpt.pt"))
    assert fused == Path("runs/ckpt.fused.safetensors")
    assert onnx_path(fused) == Path("runs/ckpt.onnx")


def test_newest_is_by_time_of_writing(tmp_path: Path) -> None:
    for name, age in (("b.onnx", 30), ("a.onnx", 10), ("c.onnx", 20), ("z.pt", 0)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (1_000_000 - age, 1_000_000 - age))
    (tmp_path / "a.float-ncthw.onnx").touch()  # newer, but for other programs
    (tmp_path / ".writing-x.onnx").touch()  # another run's unfinished file, or a killed one's
    assert newest(tmp_path, ".onnx", made_by="stdeploy export").name == "a.onnx"


def test_newest_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no \*\.onnx .* `stdeploy export`"):
        newest(tmp_path, ".onnx", made_by="stdeploy export")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("out.bin", r"has to end in \.onnx"),
        ("a.onnx", "over the file that it is made from"),
        ("folder.onnx", "it is a folder"),
        ("no/out.onnx", "is no folder that can be written to"),
    ],
)
def test_outputs_that_cannot_be_are_refused(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "a.onnx").touch()
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(ArtifactError, match=message):
        checked_output(tmp_path / name, ".onnx", source=tmp_path / "a.onnx")


def test_outputs_that_can_be_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "b.onnx"
    assert checked_output(path, ".onnx", source=tmp_path / "a.onnx") == path
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    path.write_text("old")

    def write_half() -> None:
        with whole_file(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_whole_write_replaces_and_is_readable_by_others(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    path.write_text("old")
    previous = os.umask(0o022)
    try:
        with whole_file(path) as temporary:
            assert temporary.suffix == ".onnx"
            temporary.write_text("new")
    finally:
        os.umask(previous)
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o777 == 0o644
    assert list(tmp_path.iterdir()) == [path]


WRITER = """
import pathlib, sys
from stdeploy.artifacts.files import unfinished_folder, whole_file
with unfinished_folder(pathlib.Path(sys.argv[1])) as folder:
    (folder / "inside").write_text("half")
    with whole_file(pathlib.Path(sys.argv[1], sys.argv[2])) as temporary:
        temporary.write_text("half")
        print("writing", flush=True)
        sys.stdin.read()
"""


@contextlib.contextmanager
def half_way(folder: Path, name: str) -> Iterator["subprocess.Popen[str]"]:
    """A process that has written half of a file; it ends it when its input ends."""
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder), name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        yield process


def test_what_a_killed_run_left_is_removed_and_what_a_living_one_writes_is_not(
    tmp_path: Path,
) -> None:
    kept = [tmp_path / name for name in (".writing-notes.txt", ".writing-by-hand", ".writing-")]
    for path in kept:
        path.touch()
    with half_way(tmp_path, "killed.onnx") as killed:
        killed.send_signal(signal.SIGKILL)
    assert len([*tmp_path.iterdir()]) == 3 + 2
    with half_way(tmp_path, "living.onnx") as living:
        assert len([*tmp_path.iterdir()]) == 3 + 2  # it has taken the place of the other's
        with whole_file(tmp_path / "a.onnx") as temporary, unfinished_folder(tmp_path) as folder:
            temporary.write_text("whole")
            assert len([*tmp_path.iterdir()]) == 3 + 2 + 2
            assert folder.is_dir()
        assert living.stdin is not None
        living.stdin.close()
    assert living.returncode == 0
    whole = [tmp_path / name for name in ("a.onnx", "living.onnx")]
    assert sorted(tmp_path.iterdir()) == sorted([*kept, *whole])


def test_a_full_disk_is_told_with_the_name_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    path.write_text("old")
    message = r"^cannot write '.*/a\.onnx': File too large; free some space, or write elsewhere$"
    with (
        files_of_at_most(1000),
        pytest.raises(ArtifactError, match=message),
        whole_file(path) as temporary,
    ):
        temporary.write_bytes(bytes(2000))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_writing_into_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="cannot write"), whole_file(tmp_path / "no" / "a.pt"):
        pass


def test_a_misspelt_artifact_is_told_from_those_beside_it(tmp_path: Path) -> None:
    for name in ("finetune.onnx", "finetun.txt"):
        (tmp_path / name).touch()
    # With its folder, so that it can be typed as it stands.
    meant = re.escape(f"; did you mean '{tmp_path / 'finetune.onnx'}'?")
    with pytest.raises(ArtifactError, match=f"{meant}$"):
        existing(tmp_path / "finetun.onnx")
    with pytest.raises(ArtifactError, match=r"does not exist; name an artifact file$"):
        existing(tmp_path / "nowhere" / "finetun.onnx")


@pytest.mark.parametrize("suffix", [".pt", ".fused.safetensors", ".onnx", ".engine"])
def test_an_empty_artifact_says_that_it_is_empty(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.touch()
    with pytest.raises(ArtifactError, match=r"is empty \(0 bytes\); what wrote or copied it"):
        existing(path)
    with pytest.raises(ArtifactError, match="is empty"):
        read_card(path)
