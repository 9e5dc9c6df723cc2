"""Whether memory grows with the length of a video: 20 seconds against an hour.

    python benchmarks/memory.py ARTIFACT VIDEO [--minutes N] [--hop SECONDS]

The video is repeated to both lengths (its packets are copied, which needs PyAV); each is
classified in a process of its own, with views and as a timeline, and the peaks are compared.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import av

CHILD = """
import resource, sys
from pathlib import Path
from stdeploy.inference.classifier import Classifier, ClassifyOptions
from stdeploy.inference.timeline import TimelineOptions
artifact, video, how, hop = sys.argv[1:]
with Classifier.open(Path(artifact), options=ClassifyOptions(views=3)) as classifier:
    if how == "views":
        list(classifier.classify_many([video] * 2))
    else:
        timeline = classifier.timeline(Path(video), TimelineOptions(hop_seconds=float(hop)))
        assert timeline.cells
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def repeated(video: Path, path: Path, seconds: float) -> None:
    """Write a video over and over, without coding it again."""
    with av.open(str(path), "w") as out:
        stream, offset, done = None, 0, 0.0
        while done < seconds:
            with av.open(str(video)) as container:
                source = container.streams.video[0]
                if stream is None:
                    stream = out.add_stream_from_template(source)
                    stream.time_base = source.time_base
                last = 0
                for packet in container.demux(source):
                    if packet.dts is None or packet.pts is None:
                        continue
                    step = packet.duration or 1
                    last = max(last, packet.pts + step, packet.dts + step)
                    packet.pts += offset
                    packet.dts += offset
                    packet.stream = stream
                    out.mux(packet)
                offset += last
                done = float(offset * source.time_base)  # the muxer may change the stream's own


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("artifact", type=Path)
    parser.add_argument("video", type=Path)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--hop", type=float, default=1.0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        short, long = Path(folder) / "short.mkv", Path(folder) / "long.mkv"
        repeated(arguments.video, short, 20.0)
        repeated(arguments.video, long, 60.0 * arguments.minutes)
        for how in ("views", "timeline"):
            peaks = []
            for video in (short, long):
                command = [sys.executable, "-c", CHILD, arguments.artifact, video, how]
                result = subprocess.run(
                    [*map(str, command), str(arguments.hop)],
                    capture_output=True,
                    text=True,
                    check=True,
                )
                peaks.append(float(result.stdout.split()[-1]))
            print(
                f"{how}: {peaks[0]:.0f} MiB for 20 s, {peaks[1]:.0f} MiB for "
                f"{arguments.minutes:g} min: {peaks[1] / peaks[0]:.3f} times",
                flush=True,
            )


if __name__ == "__main__":
    main()
