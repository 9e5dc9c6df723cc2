import csv
import json
from pathlib import Path
from typing import Any

import pytest

from stdeploy.errors import ArtifactError
from stdeploy.inference.result_files import ResultFile

ARTIFACT = "a" * 64
SETTINGS = "views=1 crops=1 top_k=2"


def record(number: int, **more: object) -> dict[str, Any]:
    return {
        "video": f"Ж, {number}.mp4",
        "predictions": [{"label": "to, fro", "score": 0.75}, {"label": "up", "score": 0.25}],
        "views": 1,
        "view_spans_seconds": [[0.0, 1.5]],
        "duration_seconds": 2.0,
        "timings_ms": {"decode": 1.5, "infer": 2.5},
        "device": "CPU",
        "artifact_sha256": ARTIFACT,
        "video_sha256": f"{number:064d}",
    } | more


def timeline(number: int, segments: int, **more: object) -> dict[str, Any]:
    stretches = [
        {
            "label": f"label {place}",
            "start": float(place),
            "end": place + 0.5,
            "mean_score": 0.7,
            "peak_score": 0.9,
        }
        for place in range(segments)
    ]
    of_timeline = {"timeline": "windows", "windows": [], "segments": stretches}
    both = record(number) | of_timeline | more
    return {name: both[name] for name in both if name not in ("predictions", "views")}


def opened(path: Path, *, resume: bool = False, **options: Any) -> ResultFile:
    given: dict[str, Any] = {"artifact_sha256": ARTIFACT, "settings": SETTINGS, "top_k": 2}
    existing = "resume" if resume else "refuse"
    return ResultFile(path, **given | {"existing": existing} | options)


def videos_in(path: Path) -> list[str]:
    if path.suffix == ".jsonl":
        return [json.loads(line)["video"] for line in path.read_text().splitlines()]
    if path.suffix == ".csv":
        with path.open(newline="") as file:
            return [row["video"] for row in csv.DictReader(file)]
    parquet = pytest.importorskip("pyarrow.parquet")
    return parquet.read_table(path).column("video").to_pylist()


def columns_of(path: Path) -> list[str]:
    if path.suffix == ".csv":
        return path.read_text().splitlines()[0].split(",")
    parquet = pytest.importorskip("pyarrow.parquet")
    return parquet.read_schema(path).names


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
    assert {name: value for name, value in first.items() if value is not None} == record(
        0, settings=SETTINGS
    )
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
        assert file.done == {  # what failed is tried again
            f"{0:064d}": {"Ж, 0.mp4"},
            f"{1:064d}": {"Ж, 1.mp4"},
        }
        file.write(record(2))
    assert videos_in(path) == ["Ж, 0.mp4", "Ж, 1.mp4", "Ж, 2.mp4"]

    with opened(path, resume=True) as file:  # also after the end
        assert len(file.done) == 3
        file.write(record(3))
    assert len(videos_in(path)) == 4


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_holds_rows_is_replaced_only_when_told_to(tmp_path: Path, name: str) -> None:
    with opened(tmp_path / name) as file:
        file.write(record(0))
    before = (tmp_path / name).read_bytes()
    with pytest.raises(ArtifactError, match=r"holds rows already; --resume .* --overwrite begins"):
        opened(tmp_path / name)
    assert (tmp_path / name).read_bytes() == before
    with opened(tmp_path / name, existing="overwrite") as file:
        assert not file.done
        file.write(record(1))
    assert videos_in(tmp_path / name) == ["Ж, 1.mp4"]
    assert sorted(p.name for p in tmp_path.iterdir()) == [name]


def test_an_unfinished_parquet_file_is_not_begun_anew_unasked(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow.parquet")
    interrupted = opened(tmp_path / "rows.parquet")
    interrupted.write(record(0))
    interrupted.close(finished=False)
    with pytest.raises(ArtifactError, match=r"'.*rows\.parquet\.unfinished\.jsonl' holds rows"):
        opened(tmp_path / "rows.parquet")


def test_an_empty_file_is_written_to(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").touch()
    with opened(tmp_path / "rows.jsonl") as file:
        file.write(record(0))
    assert videos_in(tmp_path / "rows.jsonl") == ["Ж, 0.mp4"]


@pytest.mark.parametrize("name", NAMES)
def test_rows_of_another_artifact_are_not_mixed(tmp_path: Path, name: str) -> None:
    with opened(tmp_path / name) as file:
        file.write(record(0))
    before = (tmp_path / name).read_bytes()
    with pytest.raises(ArtifactError, match="results of another artifact"):
        opened(tmp_path / name, resume=True, artifact_sha256="b" * 64)
    assert (tmp_path / name).read_bytes() == before


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("settings", "options"),
    [
        ("views=1 crops=1 top_k=3", {"top_k": 3}),
        ("timeline=windows hop=1.0 enter=0.5 leave=0.3 top_k=2", {"timeline": True}),
    ],
)
def test_rows_of_other_settings_are_not_mixed(
    tmp_path: Path, name: str, settings: str, options: dict[str, Any]
) -> None:
    with opened(tmp_path / name) as file:
        file.write(record(0))
    before = (tmp_path / name).read_bytes()
    with pytest.raises(ArtifactError) as raised:
        opened(tmp_path / name, resume=True, settings=settings, **options)
    assert f"holds results of other settings ({SETTINGS}; now {settings})" in str(raised.value)
    assert (tmp_path / name).read_bytes() == before


def test_a_csv_that_is_none_of_ours_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("path,label\na.mp4,up\n")
    with pytest.raises(ArtifactError, match="lacks the columns of results"):
        opened(tmp_path / "rows.csv", resume=True)
    assert (tmp_path / "rows.csv").read_text() == "path,label\na.mp4,up\n"


@pytest.mark.parametrize("name", ["rows.csv", "rows.parquet"])
def test_pictures_have_columns_where_they_were_asked_for(tmp_path: Path, name: str) -> None:
    with opened(tmp_path / name) as file:
        file.write(record(0))
    assert not {"contact_sheet", "labelled_video", "plot"} & set(columns_of(tmp_path / name))
    with opened(tmp_path / name, resume=True, pictures=["contact_sheet"]) as file:
        file.write(record(1, contact_sheet="sheets/1.png"))
    with opened(tmp_path / name, resume=True, pictures=["labelled_video"]) as file:
        file.write(record(2, labelled_video="videos/2.mp4"))
    names = columns_of(tmp_path / name)
    assert names[-5:-3] == ["contact_sheet", "labelled_video"]
    assert "plot" not in names
    text = (tmp_path / name).read_bytes()
    for picture in (b"sheets/1.png", b"videos/2.mp4"):  # what was there stays
        assert picture in text


SEGMENT_NAMES = ["rows.csv", "rows.parquet"]


def flat_rows(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".csv":
        with path.open(newline="") as file:
            return [{k: v for k, v in row.items() if v} for row in csv.DictReader(file)]
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = parquet.read_table(path).to_pylist()
    return [{k: v for k, v in row.items() if v is not None} for row in rows]


@pytest.mark.parametrize("name", SEGMENT_NAMES)
def test_a_timeline_is_a_row_for_each_segment(tmp_path: Path, name: str) -> None:
    with opened(tmp_path / name, timeline=True) as file:
        file.write(timeline(0, 2))
        file.write(timeline(1, 0))
        file.write({"video": "broken.mp4", "error": "is empty (0 bytes)"})
        assert (file.rows, file.videos) == (4, 3)
    first, second, without, broken = flat_rows(tmp_path / name)
    assert [first["label"], second["label"]] == ["label 0", "label 1"]
    assert [float(second[key]) for key in ("start", "end", "mean_score", "peak_score")] == [
        *(1.0, 1.5),
        *(0.7, 0.9),
    ]
    assert int(first["segments"]) == 2
    assert first["video_sha256"] == second["video_sha256"] == f"{0:064d}"
    assert without["video"] == "Ж, 1.mp4"
    assert not {"start", "end", "label", "mean_score", "peak_score"} & without.keys()
    assert broken["error"] == "is empty (0 bytes)"
    for row in (first, second, without, broken):
        assert row["settings"] == SETTINGS


@pytest.mark.parametrize("name", SEGMENT_NAMES)
def test_timelines_in_rows_go_on_after_a_break(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    interrupted = opened(path, timeline=True)
    for number, segments in enumerate((2, 0, 3)):
        interrupted.write(timeline(number, segments))
    interrupted.close(finished=False)
    (growing,) = tmp_path.iterdir()
    lines = growing.read_text().splitlines(keepends=True)
    growing.write_text("".join(lines[:-1]))  # killed before the third segment of the third video
    with opened(path, timeline=True, resume=True) as file:
        assert set(file.done) == {f"{0:064d}", f"{1:064d}"}
        file.write(timeline(2, 3))
    with opened(path, timeline=True, resume=True) as file:  # also after the end
        assert set(file.done) == {f"{number:064d}" for number in range(3)}
        assert (file.rows, file.videos) == (6, 3)
    assert [row.get("label") for row in flat_rows(path)] == [
        *("label 0", "label 1"),
        None,
        *("label 0", "label 1", "label 2"),
    ]


def test_other_suffixes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"has to end in \.jsonl, \.csv or \.parquet"):
        opened(tmp_path / "rows.xlsx")


@pytest.mark.parametrize("name", NAMES)
def test_what_was_there_stays_until_the_first_row(tmp_path: Path, name: str) -> None:
    with opened(tmp_path / name) as file:
        file.write(record(0))
    before = (tmp_path / name).read_bytes()
    with pytest.raises(RuntimeError), opened(tmp_path / name, existing="overwrite"):
        raise RuntimeError  # the artifact cannot be opened, say
    assert (tmp_path / name).read_bytes() == before


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_is_no_text_is_written(tmp_path: Path, name: str) -> None:
    with opened(tmp_path / name) as file:
        file.write(record(0, video="a\udcff.mp4"))
    assert videos_in(tmp_path / name) == ["a\\udcff.mp4"]


def test_rows_without_a_digest_are_kept(tmp_path: Path) -> None:
    row = record(0, settings=SETTINGS)
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
        assert set(file.done) == {f"{0:064d}"}


def test_a_damaged_parquet_file_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "rows.parquet").write_bytes(b"PAR1" + bytes(100))
    with pytest.raises(ArtifactError, match="cannot be gone on with"):
        opened(tmp_path / "rows.parquet", resume=True)
