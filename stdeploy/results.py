"""Files of results: one row a video, as JSON lines, CSV or Parquet; a broken run can go on.

A row is plain data, as `Prediction.to_record` makes it, with the digest of the video's content.
"""

import contextlib
import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, TracebackType
from typing import IO, Any, Protocol, Self

from stdeploy.errors import ArtifactError, require
from stdeploy.files import checked_output, whole_file

DIGEST = "video_sha256"
_ARTIFACT = "artifact_sha256"
_ERROR = "error"
_DIGITS = 64
_TEXT: Any = {"encoding": "utf-8", "newline": ""}
_PARQUET_ROWS = 10_000
Record = dict[str, Any]


class ResultFile:
    """A file that rows are added to, one by one; a context manager.

    Rows are on the disk as soon as they are written, whatever becomes of the program. A Parquet
    file cannot grow, so its rows go to a file of JSON lines beside it until all is done.

    Args:
        path: ends in .jsonl, .csv or .parquet.
        artifact_sha256: digest of the artifact that gives the rows.
        top_k: labels in a row.
        resume: go on with a file that is there, instead of replacing it.

    Raises:
        ArtifactError: another suffix, no folder to write in, or rows of another artifact.
        MissingExtraError: Parquet without pyarrow.

    Attributes:
        done: digests of the videos that have their row.
    """

    def __init__(self, path: Path, *, artifact_sha256: str, top_k: int, resume: bool) -> None:
        self.done: set[str] = set()
        self._path = _checked(path)
        self._parquet = path.suffix == ".parquet"
        if self._parquet:
            _pyarrow()
        self._growing = path.with_name(path.name + ".unfinished.jsonl") if self._parquet else path
        form = _Csv(top_k) if path.suffix == ".csv" else _JsonLines()
        self._form = form
        self._file: IO[str] | None = None
        if resume:
            self._begin(self._rows_there(form, artifact_sha256))

    def write(self, record: Record) -> None:
        """Add a row. The first one replaces what was there, if that is not to be gone on with."""
        file = self._file or self._begin(iter(()))
        # Names of files need not be text.
        name = str(record["video"]).encode("utf-8", "backslashreplace").decode()
        self._form.write(file, record | {"video": name})
        file.flush()

    def close(self, *, finished: bool) -> None:
        """Close the file.

        Args:
            finished: all rows are there, so that a Parquet file can be made of them.
        """
        if self._file is None:
            if not finished:
                return  # what was there stays
            self._begin(iter(()))
        assert self._file is not None
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        if self._parquet and finished:
            _write_parquet(self._growing, self._path)
            self._growing.unlink()

    def _begin(self, kept: Iterator[Record]) -> IO[str]:
        """Write a new file of the rows that are kept: without those cut short or with an error."""
        with whole_file(self._growing) as temporary, temporary.open("w", **_TEXT) as file:
            self._form.begin(file)
            try:
                for row in kept:
                    self._form.write(file, row)
                    if row.get(DIGEST):
                        self.done.add(row[DIGEST])
            except (ValueError, csv.Error) as error:  # Arrow's errors are ValueErrors
                reason = str(error).splitlines()[0]
                raise ArtifactError(
                    f"{str(self._path)!r} cannot be gone on with: {reason}; name another output"
                ) from error
        self._file = self._growing.open("a", **_TEXT)
        return self._file

    def _rows_there(self, form: "_Form", artifact_sha256: str) -> Iterator[Record]:
        """Rows with predictions that the file holds already.

        Raises:
            ArtifactError: they come of another artifact.
        """
        source = self._growing if self._growing.exists() else self._path
        if not source.exists():
            return
        rows = _read_parquet(source) if source.suffix == ".parquet" else form.read(source)
        for row in rows:
            if row.get(_ERROR):
                continue
            if row.get(_ARTIFACT) != artifact_sha256:
                raise ArtifactError(
                    f"{str(source)!r} holds results of another artifact "
                    f"({str(row.get(_ARTIFACT))[:12]}, not {artifact_sha256[:12]}); name another "
                    "output or leave --resume out"
                )
            yield row

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(finished=kind is None)


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
                with contextlib.suppress(json.JSONDecodeError):  # the last line, cut short
                    row = json.loads(line)
                    if isinstance(row, dict):
                        yield row


class _Csv:
    """Flat columns: label_1, score_1, label_2, ..."""

    def __init__(self, top_k: int) -> None:
        ranks = range(1, top_k + 1)
        self._columns = [
            "video",
            _ERROR,
            *(f"{what}_{rank}" for rank in ranks for what in ("label", "score")),
            "views",
            "decode_ms",
            "infer_ms",
            "device",
            _ARTIFACT,
            DIGEST,
        ]

    def begin(self, file: IO[str]) -> None:
        csv.DictWriter(file, self._columns).writeheader()

    def write(self, file: IO[str], record: Record) -> None:
        row = {name: record[name] for name in self._columns if name in record}
        for rank, found in enumerate(record.get("predictions", ()), start=1):
            row[f"label_{rank}"], row[f"score_{rank}"] = found["label"], found["score"]
        for stage, ms in record.get("timings_ms", {}).items():
            row[f"{stage}_ms"] = ms
        csv.DictWriter(file, self._columns, extrasaction="ignore").writerow(row)

    def read(self, path: Path) -> Iterator[Record]:
        with path.open(encoding="utf-8", errors="replace", newline="") as file:
            reader = csv.DictReader(file)
            if reader.fieldnames is not None and list(reader.fieldnames) != self._columns:
                raise ArtifactError(
                    f"{str(path)!r} has other columns than this run would write; give the same "
                    "--top-k, name another output or leave --resume out"
                )
            for row in reader:
                # The last column: a row that was cut short has none, or not all of it.
                if len(row.get(DIGEST) or "") == _DIGITS or row.get(_ERROR):
                    yield row


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


def _schema() -> Any:
    import pyarrow as pa

    return pa.schema(
        [
            ("video", pa.string()),
            (_ERROR, pa.string()),
            (
                "predictions",
                pa.list_(pa.struct([("label", pa.string()), ("score", pa.float64())])),
            ),
            ("views", pa.int32()),
            ("view_spans_seconds", pa.list_(pa.list_(pa.float64()))),
            ("timings_ms", pa.struct([("decode", pa.float64()), ("infer", pa.float64())])),
            ("device", pa.string()),
            (_ARTIFACT, pa.string()),
            (DIGEST, pa.string()),
        ]
    )


def _write_parquet(rows: Path, path: Path) -> None:
    parquet, schema = _pyarrow(), _schema()
    import pyarrow as pa

    with whole_file(path) as temporary, parquet.ParquetWriter(temporary, schema) as writer:
        batch: list[Record] = []
        for row in _JsonLines().read(rows):
            batch.append(row)
            if len(batch) == _PARQUET_ROWS:
                writer.write_table(pa.Table.from_pylist(batch, schema))
                batch.clear()
        if batch:
            writer.write_table(pa.Table.from_pylist(batch, schema))


def _read_parquet(path: Path) -> Iterator[Record]:
    with _pyarrow().ParquetFile(path) as file:
        for batch in file.iter_batches():
            for row in batch.to_pylist():
                yield {name: value for name, value in row.items() if value is not None}
