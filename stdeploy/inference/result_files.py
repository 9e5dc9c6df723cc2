"""Files of results, as JSON lines, CSV or Parquet; a broken run can go on.

A row is plain data, as `Prediction.to_record` or `Timeline.to_record` makes it, with the settings
of the run and the digest of the video's content. In CSV and Parquet a timeline is one row for each
of its segments.
"""

import contextlib
import csv
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType, TracebackType
from typing import IO, Any, Literal, Protocol, Self

from stdeploy.artifacts.files import checked_output, naming, whole_file
from stdeploy.artifacts.values import parsed
from stdeploy.errors import ArtifactError
from stdeploy.optional_packages import require

DIGEST = "video_sha256"
SETTINGS = "settings"
PICTURES = ("contact_sheet", "plot", "labelled_video")
_NAMES = ("video", *PICTURES)  # of files
_ARTIFACT = "artifact_sha256"
_ERROR = "error"
_SEGMENTS = "segments"
_DIGITS = 64
_TEXT: Any = {"encoding": "utf-8", "newline": ""}
_PARQUET_ROWS = 10_000
_NOTES = "notes"
_OF_VIDEO = (
    "duration_seconds",
    "damaged_after_seconds",
    "lost_frames",
    "times_estimated",
    _NOTES,
)
_LAST = (SETTINGS, _ARTIFACT, DIGEST)  # a row that was cut short lacks the end
Record = dict[str, Any]


class ResultFile:
    """A file that rows are added to, video by video; a context manager.

    Rows are on the disk as soon as they are written, whatever becomes of the program. A Parquet
    file cannot grow, so its rows go to a file of JSON lines beside it until all is done.

    Args:
        path: ends in .jsonl, .csv or .parquet.
        artifact_sha256: digest of the artifact that gives the rows.
        settings: of the run, in one short text; rows of others are not mixed with these.
        top_k: labels in a row, at most as many as there are.
        timeline: whether the records are those of timelines.
        pictures: which of `PICTURES` the records name.
        existing: what becomes of a file that holds something already.

    Raises:
        ArtifactError: another suffix, no folder to write in, a file that is to be refused, or
            rows of another artifact or of other settings.
        MissingExtraError: Parquet without pyarrow.

    Attributes:
        done: names of the videos that have their row, by the digest of their content.
        rows: in the file.
        videos: that these are about.
    """

    def __init__(
        self,
        path: Path,
        *,
        artifact_sha256: str,
        settings: str,
        top_k: int,
        timeline: bool = False,
        pictures: Sequence[str] = (),
        existing: Literal["refuse", "resume", "overwrite"] = "refuse",
    ) -> None:
        self.done: dict[str, set[str]] = {}
        self.rows = self.videos = 0
        self._path = _checked(path)
        self._parquet = path.suffix == ".parquet"
        if self._parquet:
            _pyarrow()
        self._growing = path.with_name(path.name + ".unfinished.jsonl") if self._parquet else path
        self._artifact_sha256, self._settings = artifact_sha256, settings
        self._in_segments = timeline and path.suffix != ".jsonl"
        self._pictures = tuple(pictures)
        columns = _segment_columns() if timeline else _label_columns(top_k)
        form = _Csv(columns, self._pictures) if path.suffix == ".csv" else _JsonLines()
        self._form: _Form = form
        self._file: IO[str] | None = None
        there = [found for found in (self._growing, path) if _holds_something(found)]
        if there and existing == "refuse":
            raise ArtifactError(
                f"{str(there[0])!r} holds rows already; --resume goes on with it, --overwrite "
                "begins anew"
            )
        if existing == "resume":
            self._begin(lambda: self._kept(there[0]) if there else iter(()))

    @property
    def growing(self) -> Path:
        """Where the rows lie as long as not all is done."""
        return self._growing

    def write(self, record: Record) -> None:
        """Add what is known of a video. The first one replaces what is not to be gone on with."""
        file = self._file or self._begin(lambda: iter(()))
        names = {name: name_in_file(record[name]) for name in _NAMES if name in record}
        record = record | names | {SETTINGS: self._settings}
        with naming(self._growing):
            for row in _segment_rows(record) if self._in_segments else [record]:
                self._form.write(file, row)
                self.rows += 1
            file.flush()
        self.videos += 1

    def close(self, *, finished: bool) -> None:
        """Close the file.

        Args:
            finished: all rows are there, so that a Parquet file can be made of them.
        """
        if self._file is None:
            if not finished:
                return  # what was there stays
            self._begin(lambda: iter(()))
        assert self._file is not None
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        if self._parquet and finished:
            _write_parquet(self._growing, self._path, self._in_segments, self._pictures)
            self._growing.unlink()

    def _begin(self, kept: Callable[[], Iterator[Record]]) -> IO[str]:
        """Write a new file of the rows that are kept: without those cut short or with an error."""
        with whole_file(self._growing) as temporary, temporary.open("w", **_TEXT) as file:
            try:
                rows = kept()
                self._form.begin(file)
                for row in rows:
                    self._form.write(file, row)
            except (ValueError, csv.Error) as error:  # Arrow's errors are ValueErrors
                reason = str(error).splitlines()[0]
                raise ArtifactError(
                    f"{str(self._path)!r} cannot be gone on with: {reason}; name another output"
                ) from error
        self._file = self._growing.open("a", **_TEXT)
        return self._file

    def _kept(self, source: Path) -> Iterator[Record]:
        """The videos that a file holds in full.

        Raises:
            ArtifactError: its columns are not ours.
        """
        rows = _read_parquet(source) if source.suffix == ".parquet" else self._form.read(source)
        return self._whole(self._ours(rows, source))

    def _ours(self, rows: Iterator[Record], source: Path) -> Iterator[Record]:
        """Rows without an error.

        Raises:
            ArtifactError: they come of another artifact or of other settings.
        """
        for row in rows:
            if row.get(_ERROR):
                continue
            if row.get(_ARTIFACT) != self._artifact_sha256:
                raise ArtifactError(
                    f"{str(source)!r} holds results of another artifact "
                    f"({str(row.get(_ARTIFACT))[:12]}, not {self._artifact_sha256[:12]}); name "
                    "that one with -m, or another output, or pass --overwrite instead of --resume"
                )
            if row.get(SETTINGS) != self._settings:
                raise ArtifactError(
                    f"{str(source)!r} holds results of other settings "
                    f"({row.get(SETTINGS) or 'not said which'}; now {self._settings}); name "
                    "another output, or pass --overwrite instead of --resume"
                )
            yield row

    def _whole(self, rows: Iterator[Record]) -> Iterator[Record]:
        """Rows of the videos that have all of theirs, counted."""
        for together in _by_video(rows) if self._in_segments else ([row] for row in rows):
            if self._in_segments and len(together) < max(1, int(together[0][_SEGMENTS])):
                continue  # the program was killed between two of them
            self.rows += len(together)
            self.videos += 1
            if together[0].get(DIGEST):
                self.done.setdefault(together[0][DIGEST], set()).add(str(together[0]["video"]))
            yield from together

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(finished=kind is None)


def name_in_file(path: object) -> str:
    """How a file is named in files of results: names of files need not be text."""
    return str(path).encode("utf-8", "backslashreplace").decode()


class _Form(Protocol):
    """How rows look in a text file."""

    def begin(self, file: IO[str]) -> None: ...

    def write(self, file: IO[str], record: Record) -> None: ...

    def read(self, path: Path) -> Iterator[Record]: ...


class _JsonLines:
    def begin(self, file: IO[str]) -> None:
        pass

    def write(self, file: IO[str], record: Record) -> None:
        file.write(json.dumps(record) + "\n")

    def read(self, path: Path) -> Iterator[Record]:
        with path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                with contextlib.suppress(ValueError):  # the last line, cut short
                    row = parsed(json.loads, line)
                    if isinstance(row, dict):
                        yield row


class _Csv:
    """Flat columns; those of pictures stand before the last ones."""

    def __init__(self, columns: Sequence[str], pictures: Sequence[str]) -> None:
        self._known = columns
        self._pictures = set(pictures)

    @property
    def _columns(self) -> list[str]:
        return [*self._known, *(name for name in PICTURES if name in self._pictures), *_LAST]

    def begin(self, file: IO[str]) -> None:
        csv.DictWriter(file, self._columns).writeheader()

    def write(self, file: IO[str], record: Record) -> None:
        row = {name: record[name] for name in self._columns if name in record}
        for rank, found in enumerate(record.get("predictions", ()), start=1):
            row[f"label_{rank}"], row[f"score_{rank}"] = found["label"], found["score"]
        if isinstance(record.get(_NOTES), list):
            row[_NOTES] = "; ".join(record[_NOTES])
        for stage, ms in record.get("timings_ms", {}).items():
            row[f"{stage}_ms"] = ms
        csv.DictWriter(file, self._columns, extrasaction="ignore").writerow(row)

    def read(self, path: Path) -> Iterator[Record]:
        """Rows, once the columns are known.

        Raises:
            ArtifactError: there are none of ours.
        """
        with path.open(encoding="utf-8", errors="replace", newline="") as file:
            header = csv.DictReader(file).fieldnames or ()
        if not {"video", _ERROR, *_LAST} <= set(header):
            raise ArtifactError(
                f"{str(path)!r} lacks the columns of results; name another output, or pass "
                "--overwrite instead of --resume"
            )
        self._pictures |= set(header) & set(PICTURES)
        return self._rows(path)

    def _rows(self, path: Path) -> Iterator[Record]:
        with path.open(encoding="utf-8", errors="replace", newline="") as file:
            for row in csv.DictReader(file):
                # The last column: a row that was cut short has none, or not all of it.
                if len(row.get(DIGEST) or "") == _DIGITS or row.get(_ERROR):
                    yield row


def _label_columns(top_k: int) -> list[str]:
    """Of CSV: label_1, score_1, label_2, ..."""
    ranks = range(1, top_k + 1)
    return [
        "video",
        _ERROR,
        *(f"{what}_{rank}" for rank in ranks for what in ("label", "score")),
        "views",
        *_OF_VIDEO,
        "decode_ms",
        "infer_ms",
        "device",
    ]


def _segment_columns() -> list[str]:
    measures = ("start", "end", "label", "mean_score", "peak_score")
    return ["video", _ERROR, *measures, _SEGMENTS, *_OF_VIDEO, "device"]


def _segment_rows(record: Record) -> list[Record]:
    """A timeline as a row for each of its segments, at least one; each tells how many there are."""
    segments = record.get(_SEGMENTS, [])
    of_all = {
        name: value
        for name, value in record.items()
        if name in (*_segment_columns(), *PICTURES, *_LAST)
    }
    return [of_all | {_SEGMENTS: len(segments)} | segment for segment in segments or [{}]]


def _by_video(rows: Iterator[Record]) -> Iterator[list[Record]]:
    for _, together in itertools.groupby(rows, lambda row: (row.get("video"), row.get(DIGEST))):
        yield list(together)


def _holds_something(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def _checked(path: Path) -> Path:
    suffixes = (".jsonl", ".csv", ".parquet")
    if path.suffix not in suffixes:
        raise ArtifactError(
            f"cannot write {str(path)!r}: the name has to end in {', '.join(suffixes[:-1])} or "
            f"{suffixes[-1]}"
        )
    return checked_output(path, path.suffix)


def _pyarrow() -> ModuleType:
    require("pyarrow", extra="parquet", purpose="writing Parquet")
    return require("pyarrow.parquet", extra="parquet", purpose="writing Parquet")


def _schema(*, in_segments: bool, pictures: Iterable[str]) -> Any:
    import pyarrow as pa

    number, text = pa.float64(), pa.string()
    of_video = dict.fromkeys(_OF_VIDEO, number)
    of_video |= {"lost_frames": pa.int64(), "times_estimated": pa.bool_(), _NOTES: pa.list_(text)}
    if in_segments:
        kinds = dict.fromkeys(_segment_columns(), number)
        kinds |= of_video
        kinds |= {"video": text, _ERROR: text, "label": text, "device": text, _SEGMENTS: pa.int32()}
    else:
        kinds = {
            "video": text,
            _ERROR: text,
            "predictions": pa.list_(pa.struct([("label", text), ("score", number)])),
            "views": pa.int32(),
            "view_spans_seconds": pa.list_(pa.list_(number)),
            **of_video,
            "lost_spans_seconds": pa.list_(pa.list_(number)),
            "timings_ms": pa.struct([("decode", number), ("infer", number)]),
            "device": text,
        }
    return pa.schema([*kinds.items(), *((name, text) for name in (*pictures, *_LAST))])


def _write_parquet(rows: Path, path: Path, in_segments: bool, pictures: Sequence[str]) -> None:
    parquet = _pyarrow()
    import pyarrow as pa

    named = {name for row in _JsonLines().read(rows) for name in PICTURES if name in row}
    named |= set(pictures)
    schema = _schema(in_segments=in_segments, pictures=[name for name in PICTURES if name in named])
    with whole_file(path) as temporary, parquet.ParquetWriter(temporary, schema) as writer:
        records = _JsonLines().read(rows)
        while together := list(itertools.islice(records, _PARQUET_ROWS)):
            writer.write_table(pa.Table.from_pylist(together, schema))


def _read_parquet(path: Path) -> Iterator[Record]:
    with _pyarrow().ParquetFile(path) as file:
        for batch in file.iter_batches():
            for row in batch.to_pylist():
                yield {name: value for name, value in row.items() if value is not None}
