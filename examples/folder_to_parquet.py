"""A folder of videos to a Parquet file.

python examples/folder_to_parquet.py MODEL.onnx FOLDER OUT
"""

import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

import stdeploy


def main(artifact: str, folder: str, output: str) -> None:
    """Write a row for each video: its best label, or why there is none."""
    rows = []
    with stdeploy.Classifier.open(artifact, batch=4) as classifier:
        for row in classifier.classify_many(sorted(Path(folder).glob("*.mp4"))):
            label, score = row.prediction.top(1)[0] if row.prediction else (None, None)
            error = str(row.error) if row.error else None
            rows.append({"video": str(row.video), "label": label, "score": score, "error": error})
    pq.write_table(pa.Table.from_pylist(rows), output)
    print(f"{output}: {len(rows)} videos")


if __name__ == "__main__":
    main(*sys.argv[1:])
