import csv
import json
from pathlib import Path
from typing import Any

import pytest

from stdeploy.errors import ArtifactError
from stdeploy.results import ResultFile

ARTIFACT = "a" * 64


def record(number: int, **more: object) -> dict[str, Any]:
    return {
        "video": f"Ж, {number}.mp4",
        "predictions": [{"label": "to, fro", "score": 0.75}, {"label": "up", "score": 0.25}],
        "views": 1,
        "view_spans_seconds": [[0.0, 1.5]],
        "timings_ms": {"decode": 1.5, "infer": 2.5},
        "device": "CPU",
        "artifact_sha256": ARTIFACT,
        "video_sha256": f"{number:064d}",
    } | more


def opened(path: Path, *, resume: bool = False, artifact: str = ARTIFACT) -> ResultFile:
    return ResultFile(path, artifact_sha256=artifact, top_k=2, resume=resume)


def videos_in(path: Path) -> list[str]:
    if path.suffix == ".jsonl":
        return [json.loads(line)["video"] for line in path.read_text().splitlines()]
    if path.suffix == ".csv":
        with path.open(newline="") as file:
            return [row["video"] for row in csv.DictReader(file)]
    parquet = pytest.importorskip("pyarrow.parquet")
    return parquet.read_table(path).column("video").to_pylist()


NAMES = ["rows.jsonl", "rows.csv", "rows.parquet"]


@pytest.mark.parametrize("name", NAMES)
def test_rows_come_back(tmp_path: Path, name: str) -> None:
    with opened(tmp_path / name) as file:
        file.write(record(0))
        file.write({"video": "broken.mp4", "error": "is empty (0 bytes)"})
    assert videos_in(tmp_path / name) == ["Ж, 0.mp4", "broken.mp4"]
    assert sorted(p.name for p in tmp_path.iterdir()) == [name]


def test_csv_has_a_column_for_each_label(tmp_path: Path) -> None:
    with opened(tmp_path / "rows.csv") as file:
        file.write(record(0))
    with (tmp_path / "rows.csv").open(newline="") as text:
        (row,) = csv.DictReader(text)
    assert (row["label_1"], row["score_1"], row["label_2"]) == ("to, fro", "0.75", "up")
    assert (row["decode_ms"], row["infer_ms"], row["error"]) == ("1.5", "2.5", "")


def test_parquet_keeps_types(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    with opened(tmp_path / "rows.parquet") as file:
        file.write(record(0))
        file.write({"video": "broken.mp4", "error": "is empty (0 bytes)"})
    first, second = parquet.read_table(tmp_path / "rows.parquet").to_pylist()
    assert {name: value for name, value in first.items() if value is not None} == record(0)
    assert second["predictions"] is None
    assert second["error"] == "is empty (0 bytes)"


@pytest.mark.parametrize("name", NAMES)
def test_a_broken_run_goes_on(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    interrupted = opened(path)
    interrupted.write(record(0))
    interrupted.write({"video": "broken.mp4", "error": "cannot be read"})
    interrupted.write(record(1))
    interrupted.close(finished=False)
    (growing,) = tmp_path.iterdir()
    with growing.open("a") as file:
        file.write('{"video": "half')  # killed while writing

    with opened(path, resume=True) as file:
        assert file.done == {f"{0:064d}", f"{1:064d}"}  # what failed is tried again
        file.write(record(2))
    assert videos_in(path) == ["Ж, 0.mp4", "Ж, 1.mp4", "Ж, 2.mp4"]

    with opened(path, resume=True) as file:  # also after the end
        assert len(file.done) == 3
        file.write(record(3))
    assert len(videos_in(path)) == 4


@pytest.mark.parametrize("name", NAMES)
def test_without_resume_a_file_begins_anew(tmp_path: Path, name: str) -> None:
    for number in (0, 1):
        with opened(tmp_path / name) as file:
            assert not file.done
            file.write(record(number))
    assert videos_in(tmp_path / name) == ["Ж, 1.mp4"]


@pytest.mark.parametrize("name", NAMES)
def test_rows_of_another_artifact_are_not_mixed(tmp_path: Path, name: str) -> None:
    with opened(tmp_path / name) as file:
        file.write(record(0))
    before = (tmp_path / name).read_bytes()
    with pytest.raises(ArtifactError, match="results of another artifact"):
        opened(tmp_path / name, resume=True, artifact="b" * 64)
    assert (tmp_path / name).read_bytes() == before


def test_csv_of_other_columns_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path / "rows.csv") as file:
        file.write(record(0))
    with pytest.raises(ArtifactError, match="other columns"):
        ResultFile(tmp_path / "rows.csv", artifact_sha256=ARTIFACT, top_k=3, resume=True)


def test_other_suffixes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"has to end in \.jsonl, \.csv or \.parquet"):
        opened(tmp_path / "rows.xlsx")


@pytest.mark.parametrize("name", NAMES)
def test_what_was_there_stays_until_the_first_row(tmp_path: Path, name: str) -> None:
    with opened(tmp_path / name) as file:
        file.write(record(0))
    before = (tmp_path / name).read_bytes()
    with pytest.raises(RuntimeError), opened(tmp_path / name):
        raise RuntimeError  # the artifact cannot be opened, say
    assert (tmp_path / name).read_bytes() == before


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_is_no_text_is_written(tmp_path: Path, name: str) -> None:
    with opened(tmp_path / name) as file:
        file.write(record(0, video="a\udcff.mp4"))
    assert videos_in(tmp_path / name) == ["a\\udcff.mp4"]


def test_rows_without_a_digest_are_kept(tmp_path: Path) -> None:
    row = record(0)
    del row["video_sha256"]
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    with opened(tmp_path / "rows.jsonl", resume=True) as file:
        assert not file.done
    assert videos_in(tmp_path / "rows.jsonl") == [row["video"]]


def test_a_digest_that_was_cut_short_is_none(tmp_path: Path) -> None:
    with opened(tmp_path / "rows.csv") as file:
        file.write(record(0))
        file.write(record(1))
    content = (tmp_path / "rows.csv").read_bytes()
    (tmp_path / "rows.csv").write_bytes(content[:-30])
    with opened(tmp_path / "rows.csv", resume=True) as file:
        assert file.done == {f"{0:064d}"}


def test_a_damaged_parquet_file_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "rows.parquet").write_bytes(b"PAR1" + bytes(100))
    with pytest.raises(ArtifactError, match="cannot be gone on with"):
        opened(tmp_path / "rows.parquet", resume=True)
