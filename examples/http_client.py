"""Ask a server (stdeploy serve).

python examples/http_client.py http://127.0.0.1:8000 VIDEO.mp4
"""

import json
import sys
import urllib.request
from pathlib import Path


def main(url: str, video: str) -> None:
    """Upload a video and print the best label."""
    request = urllib.request.Request(
        f"{url}/v1/classify?views=3",
        data=Path(video).read_bytes(),
        headers={"Content-Type": "application/octet-stream"},
    )
    with urllib.request.urlopen(request) as response:
        answer = json.load(response)
    best = answer["predictions"][0]
    print(f"{best['score']:.3f}  {best['label']}")


if __name__ == "__main__":
    main(*sys.argv[1:])
