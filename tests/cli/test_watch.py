"""stdeploy watch of many sources, as users run it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.data.files import TINY_ONNX
from tests.helpers.live_sender import write_film
from tests.helpers.program import records, stdeploy

RUN = ("-m", TINY_ONNX, "--backend", "onnxruntime", "--threads", "1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("watch")
    write_film(folder / "one.ts", 3.0)
    write_film(folder / "two.ts", 2.0)
    return folder


def test_files_among_several_sources_are_played_in_real_time(folder: Path) -> None:
    result = stdeploy("watch", "one.ts", "two.ts", "--hop", "0.5", "-k", "2", *RUN, cwd=folder)
    assert result.returncode == 0, result.stderr
    rows = records(result)
    assert {row["source"] for row in rows} == {"one.ts", "two.ts"}
    for row in rows:
        assert [*row] == ["source", "time", "stream_seconds", "lag_seconds", "predictions"]
        assert len(row["predictions"]) == 2
        assert 0 <= row["lag_seconds"] < 10
    assert "waiting for 2 sources; a clip spans" in result.stderr
    assert "one.ts: the source has ended" in result.stderr


def test_one_file_is_played_in_real_time(folder: Path) -> None:
    result = stdeploy("watch", "one.ts", "--hop", "0.5", *RUN, cwd=folder)
    assert result.returncode == 0, result.stderr
    assert {row["source"] for row in records(result)} == {"one.ts"}


def test_a_file_of_sources_names_them_and_says_how_often(folder: Path) -> None:
    (folder / "sources.toml").write_text(
        "hop_seconds = 0.3\n[[source]]\nname = 'often'\nurl = 'one.ts'\n"
        "[[source]]\nname = 'seldom'\nurl = 'one.ts'\nhop_seconds = 1.0\n"
    )
    result = stdeploy("watch", "--sources", "sources.toml", *RUN, cwd=folder)
    assert result.returncode == 0, result.stderr
    names = [row["source"] for row in records(result)]
    assert names.count("often") > names.count("seldom") >= 2


def test_sources_that_gave_no_answer_are_told_and_the_others_answered(folder: Path) -> None:
    sources = ("two.ts", "tcp://127.0.0.1:9", "--no-reconnect")
    result = stdeploy("watch", *sources, *RUN, cwd=folder)
    assert result.returncode == 1
    assert {row["source"] for row in records(result)} == {"two.ts"}
    assert result.stderr.splitlines()[-2:] == [
        "tcp://127.0.0.1:9: the source cannot be opened, or sends no video",
        "stdeploy: 1 source ended without an answer",
    ]


def test_a_pipe_may_be_one_of_several_sources(folder: Path) -> None:
    with subprocess.Popen(["cat", folder / "one.ts"], stdout=subprocess.PIPE) as cat:
        result = subprocess.run(
            [sys.executable, "-m", "stdeploy", "watch", "-", "two.ts", *map(str, RUN)],
            cwd=folder,
            stdin=cat.stdout,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert result.returncode == 0, result.stderr
    names = {json.loads(line)["source"] for line in result.stdout.splitlines()}
    assert names == {"standard input", "two.ts"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "there is no source to watch: name one or more"),
        (("0", "0"), "two sources are named 'camera 0'"),
        (("0", "gone.mp4"), "'gone.mp4' is no live source"),
        (("0", "-", "--reconnect"), "a pipe cannot be opened again"),
        (("0", "--batch", "2"), "--batch is for several sources"),
        (("0", "--http", "a"), "--http 'a' is no address"),
        (("--sources", "gone.toml"), "'gone.toml' cannot be read"),
        (("gone.mp4",), "'gone.mp4' is no live source"),
        (("gone.mp4",), "no file has this name"),
    ],
)
def test_wrong_usage_is_one_line(folder: Path, arguments: tuple[str, ...], message: str) -> None:
    result = stdeploy("watch", *arguments, *RUN, cwd=folder)
    assert result.returncode == 2
    assert message in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_a_terminal_gets_a_table_unless_lines_are_wanted(folder: Path) -> None:
    shown = {}
    for more in ((), ("--json",)):
        ours, theirs = os.openpty()
        arguments = ("watch", "one.ts", "two.ts", "-k", "1", *more, *RUN)
        process = subprocess.Popen(
            [sys.executable, "-m", "stdeploy", *map(str, arguments)],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"COLUMNS": "100", "LINES": "30", "TERM": "xterm"},
        )
        os.close(theirs)
        parts = []
        while True:
            try:
                part = os.read(ours, 1 << 16)
            except OSError:  # the other end is closed
                break
            if not part:
                break
            parts.append(part)
        os.close(ours)
        assert process.wait(60) == 0
        shown[more] = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", b"".join(parts).decode())
    table = shown[()]
    assert "one.ts: the source has ended" in table
    last = table[table.rindex("source") :].splitlines()
    (row,) = (line for line in last if "one.ts" in line)
    assert re.search(r"one\.ts +│ ended +│ +\d\.\d\d s │ +\d+ │ +\d+ │ +0 │ 0\.\d\d class \d", row)
    rows = [json.loads(line) for line in shown["--json",].splitlines()]
    assert {each["source"] for each in rows} == {"one.ts", "two.ts"}
