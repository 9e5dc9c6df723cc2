"""What clients of /v1 see, from a real process."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from stdeploy.backends.base import RuntimeOptions
from stdeploy.inference.classifier import Classifier
from stdeploy.inference.timeline import TimelineOptions
from tests.helpers.scenes import scene
from tests.helpers.videos import write_video
from tests.serve.conftest import BACKEND, Server, running

RAW = {"Content-Type": "video/mp4"}


def post(server: Server, content: bytes, headers: dict[str, str] = RAW, **query: Any) -> Any:
    return httpx.post(
        f"{server.url}/v1/classify", content=content, headers=headers, params=query, timeout=60
    )


def events(text: str) -> list[tuple[str, dict]]:
    found = []
    for block in filter(None, text.split("\n\n")):
        if not block.startswith(":"):
            name, data = block.split("\n")
            found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


@pytest.fixture(scope="module")
def library(artifact: Path) -> Iterator[Classifier]:
    options = RuntimeOptions(backend=BACKEND, threads=1)
    with Classifier.open(artifact, runtime_options=options) as classifier:
        yield classifier


def test_library_command_line_and_http_give_the_same_numbers(
    server: Server, library: Classifier, artifact: Path, video: Path
) -> None:
    wanted = library.classify(video).to_record(3)
    command = subprocess.run(
        [
            *(sys.executable, "-m", "stdeploy", "classify", str(video), "-m", str(artifact)),
            *("--json", "-k", "3", "--backend", BACKEND, "--threads", "1"),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    answers = [
        json.loads(command.stdout),
        post(server, video.read_bytes(), top_k=3).json(),
        httpx.post(
            f"{server.url}/v1/classify",
            files={"file": ("a.mp4", video.read_bytes())},
            data={"top_k": "3"},
        ).json(),
    ]
    for answer in answers:
        for name in ("predictions", "views", "view_spans_seconds", "device"):
            assert answer[name] == wanted[name]
    assert answers[1]["model"] == {"name": "tiny", "sha256": wanted["artifact_sha256"]}
    stages = answers[1]["timings_ms"]
    assert list(stages) == ["upload", "queue", "decode", "infer", "total"]
    parts = sum(ms for stage, ms in stages.items() if stage != "total")
    assert 0 < stages["decode"] < parts <= stages["total"] + 1


def test_a_stream_without_a_timeline_ends_too(server: Server, video: Path) -> None:
    names = [name for name, _ in events(post(server, video.read_bytes(), stream=1).text)]
    assert names == ["prediction", "end"]


def test_views_and_top_k_are_as_asked_for(server: Server, video: Path) -> None:
    answer = post(server, video.read_bytes(), top_k=2, views=4).json()
    assert (len(answer["predictions"]), answer["views"]) == (2, 4)


def test_a_timeline_is_that_of_the_library_in_one_piece_and_as_events(
    server: Server, library: Classifier, video: Path
) -> None:
    options = TimelineOptions(hop_seconds=0.5, top_k=2)
    wanted = library.timeline(video, options).to_record()
    query = {"timeline": 1, "hop_seconds": 0.5, "top_k": 2}
    whole = post(server, video.read_bytes(), **query).json()
    for name in ("windows", "segments", "duration_seconds", "hop_seconds"):
        assert whole["timeline"][name] == wanted[name]
    streamed = post(server, video.read_bytes(), **query, stream=1)
    assert streamed.headers["content-type"].startswith("text/event-stream")
    (first, prediction), *windows, (last, end) = events(streamed.text)
    assert (first, last) == ("prediction", "end")
    assert prediction["predictions"] == whole["predictions"]
    assert {name for name, _ in windows} == {"window"}
    assert [window for _, window in windows] == wanted["windows"]
    assert end["segments"] == wanted["segments"]


def test_a_timeline_says_where_the_video_is_cut_unless_it_is_not_to_look(
    server: Server, library: Classifier, tmp_path: Path
) -> None:
    pictures = scene(0, 30) + scene(1, 30)
    path = write_video(tmp_path / "two.mkv", pictures, 12.0, codec="FFV1")
    for cuts, found in ((True, [2.5]), (False, None)):
        wanted = library.timeline(path, TimelineOptions(hop_seconds=0.5, cuts=cuts)).to_record()
        assert wanted.get("cuts_seconds") == found
        query = {"timeline": 1, "hop_seconds": 0.5} | ({} if cuts else {"cuts": 0})
        whole = post(server, path.read_bytes(), **query).json()["timeline"]
        assert whole["cuts_seconds"] == found
        assert whole["windows"] == wanted["windows"]
        came = events(post(server, path.read_bytes(), **query, stream=1).text)
        assert came[-1][1]["cuts_seconds"] == found
    answer = post(server, path.read_bytes(), cuts=0).json()
    assert (answer["code"], answer["error"]) == (
        "invalid",
        "cuts = 0 has no effect without a timeline; send timeline=1 with it",
    )


def test_a_file_that_breaks_off_says_where(
    server: Server, library: Classifier, video: Path, cut_video: Path
) -> None:
    wanted = library.classify(cut_video).to_record(1)["damaged_after_seconds"]
    assert 0 < wanted < 3.9
    answer = post(server, cut_video.read_bytes(), timeline=1).json()
    assert answer["damaged_after_seconds"] == wanted
    assert answer["timeline"]["damaged_after_seconds"] == wanted
    for query in ({}, {"timeline": 1}):
        came = events(post(server, cut_video.read_bytes(), stream=1, **query).text)
        assert came[0][1]["damaged_after_seconds"] == wanted
        assert came[-1][0] == "end"
        assert came[-1][1]["damaged_after_seconds"] == wanted
    whole = post(server, video.read_bytes(), timeline=1).json()
    assert whole["damaged_after_seconds"] is whole["timeline"]["damaged_after_seconds"] is None


def test_the_stages_of_a_timeline_are_those_of_all_its_windows(
    server: Server, long_video: Path
) -> None:
    for stream in (0, 1):
        before = server.metric("stdeploy_inference_seconds_sum")
        query = {"timeline": 1, "hop_seconds": 0.5, "stream": stream}
        answer = post(server, long_video.read_bytes(), **query)
        in_network = 1e3 * (server.metric("stdeploy_inference_seconds_sum") - before)
        stages = (events(answer.text)[-1][1] if stream else answer.json())["timings_ms"]
        assert in_network - 0.1 <= stages["infer"] <= stages["total"]
        assert stages["decode"] <= stages["total"]
        if stream:
            first = events(answer.text)[0][1]["timings_ms"]
            assert stages["decode"] > first["decode"]


def test_events_come_while_the_video_is_still_worked_on(server: Server, long_video: Path) -> None:
    # A machine may be so busy that all is done before this process reads the first event.
    assert any(_first_event_comes_before_the_middle(server, long_video) for _ in range(10))


def _first_event_comes_before_the_middle(server: Server, long_video: Path) -> bool:
    query = {"stream": 1, "timeline": 1, "hop_seconds": 0.1}
    done = []
    with httpx.stream(
        "POST",
        f"{server.url}/v1/classify",
        params=query,
        content=long_video.read_bytes(),
        headers=RAW,
        timeout=60,
    ) as answer:
        for line in answer.iter_lines():
            if line.startswith("event: window"):
                done.append(0.0 if done else server.metric("stdeploy_batch_clips_sum"))
    return server.metric("stdeploy_batch_clips_sum") > done[0] + len(done) / 2


@pytest.mark.parametrize(
    ("content", "headers", "query", "status", "code", "words"),
    [
        (b"", RAW, {}, 400, "bad_request", "it is empty"),
        (b"hello, world" * 100, RAW, {}, 415, "unsupported_type", "no video of a kind"),
        (b"x", {"Content-Type": "text/plain"}, {}, 415, "unsupported_type", "'text/plain'"),
        (b"x", {}, {}, 415, "unsupported_type", "type is missing"),
        (b"\0\0\0\x20ftypisom" + bytes(1000), RAW, {}, 422, "undecodable", "the video is no"),
        (b"x", RAW, {"top_k": 0}, 422, "invalid", "top_k = '0': a whole number of at least 1 is"),
        (b"x", RAW, {"topk": 3}, 422, "invalid", "there is no option 'topk'; there are top_k, "),
        (b"x", RAW, {"views": "a"}, 422, "invalid", "views = 'a': a whole number from 1 to 64 is"),
        (b"x", RAW, {"stream": 2}, 422, "invalid", "stream = '2': true or false is allowed"),
        (
            b"x",
            RAW,
            {"hop_seconds": 0},
            422,
            "invalid",
            "hop_seconds = '0': a number from 0.1 to 3600 is allowed",
        ),
        (
            b"\0\0\0\x20ftypisom",
            RAW,
            {"hop_seconds": 2},
            422,
            "invalid",
            "hop_seconds = 2 has no effect without a timeline; send timeline=1",
        ),
        (
            b"x",
            {"Content-Type": "multipart/form-data; boundary=b"},
            {},
            400,
            "bad_request",
            "no multipart form",
        ),
    ],
)
def test_what_is_no_video_is_refused_in_words(
    server: Server,
    content: bytes,
    headers: dict[str, str],
    query: dict[str, Any],
    status: int,
    code: str,
    words: str,
) -> None:
    answer = post(server, content, headers, **query)
    assert answer.status_code == status
    error = answer.json()
    assert error["code"] == code
    assert answer.headers["x-request-id"] == error["request_id"]
    assert re.search(words, error["error"]), error
    assert server.left_uploads() == []


def test_options_of_a_form_are_checked_as_those_of_the_query(server: Server, video: Path) -> None:
    def form(query: str = "", **fields: str) -> httpx.Response:
        files = {"file": ("../../etc/passwd", video.read_bytes())}
        return httpx.post(f"{server.url}/v1/classify{query}", files=files, data=fields)

    assert form(views="2").json()["views"] == 2
    assert form("?hop_seconds=2", timeline="1").json()["timeline"]["hop_seconds"] == 2
    assert form(hop_seconds="2").json()["code"] == "invalid"
    assert form(views="many").json()["error"].startswith("views = 'many': ")
    assert form(colour="red").json()["error"].startswith("there is no option 'colour'")


def test_an_option_that_is_given_twice_is_refused(server: Server, video: Path) -> None:
    files = {"file": ("a.mp4", video.read_bytes())}
    for query, fields in (
        ("?top_k=1&top_k=3", {}),
        ("?top_k=2&views=1&top_k=2", {}),
        ("?top_k=1", {"top_k": "3"}),
        ("", {"top_k": ["1", "3"]}),
    ):
        answer = httpx.post(f"{server.url}/v1/classify{query}", files=files, data=fields)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid")
        assert answer.json()["error"] == "top_k is given twice; give it once"
    assert server.left_uploads() == []


@pytest.mark.parametrize("path", ["/v1/classify", "/v2/models/tiny/infer"])
def test_a_compressed_body_is_refused(server: Server, video: Path, path: str) -> None:
    content = video.read_bytes()
    for encoding in ("gzip", "br", "gzip, identity"):
        headers = RAW | {"Content-Encoding": encoding}
        answer = httpx.post(server.url + path, content=content, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_type")
        assert f"the content encoding is {encoding!r}; send the body" in answer.json()["error"]
        assert answer.headers["accept-encoding"] == "identity"
    assert post(server, content, RAW | {"Content-Encoding": "identity"}).status_code == 200


def test_paths_of_the_host_never_show(server: Server) -> None:
    broken = b"\x1aE\xdf\xa3" + bytes(range(256)) * 20
    for query in ({}, {"stream": 1}):
        text = post(server, broken, **query).text
        assert "undecodable" in text
        assert str(server.uploads) not in text
        assert "/" not in text.split('"code"')[0].replace("event: error", "")


def test_a_request_keeps_the_id_it_came_with(server: Server) -> None:
    answer = httpx.get(f"{server.url}/v1/models", headers={"X-Request-ID": "abc-1"})
    assert answer.headers["x-request-id"] == "abc-1"
    nasty = httpx.get(f"{server.url}/v1/models", headers={"X-Request-ID": "a\tb" * 40})
    assert len(nasty.headers["x-request-id"]) == 32


def test_the_model_is_described(server: Server, library: Classifier) -> None:
    (model,) = httpx.get(f"{server.url}/v1/models").json()["models"]
    assert model["labels"] == list(library.card.labels)
    assert model["backend"] == BACKEND
    assert model["clip"]["num_frames"] == 6


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({}, True),
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "same-site"}, False),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "http://behind.a.proxy"}, True),
        ({"Sec-Fetch-Site": "none"}, True),
        # Browsers leave Sec-Fetch-Site out where they are old, or the server is http://a.localhost.
        ({"Host": "a.localhost:8000", "Origin": "http://A.localhost:8000"}, True),
        ({"Host": "a.localhost:8000", "Origin": "http://a.localhost:8001"}, False),
        ({"Host": "a.localhost", "Origin": "https://evil.example"}, False),
        (
            {
                "Host": "inner.localhost",
                "X-Forwarded-Host": "a.localhost, x",
                "Origin": "https://a.localhost",
            },
            True,
        ),
        ({"Origin": "null"}, False),
        ({"Origin": ""}, False),
    ],
)
def test_pages_of_other_sites_may_not_ask(
    server: Server, headers: dict[str, str], allowed: bool
) -> None:
    answer = post(server, b"", RAW | headers)
    assert answer.json()["code"] == ("bad_request" if allowed else "cross_site")
    assert answer.status_code == (400 if allowed else 403)


@pytest.mark.parametrize(
    "path",
    ["/livez", "/v1/models", "/v2", "/v2/health/live", "/v2/models/tiny", "/v2/models/no", "/no"],
)
def test_json_is_compact_and_ends_with_its_line(server: Server, path: str) -> None:
    text = httpx.get(f"{server.url}{path}").text
    compact = json.dumps(json.loads(text), separators=(",", ":"), ensure_ascii=False)
    assert text == compact + "\n"


def test_many_clients_at_once_get_their_own_answers(
    artifact: Path, library: Classifier, video: Path, long_video: Path
) -> None:
    wanted = {
        path: library.classify(path).to_record(5)["predictions"] for path in (video, long_video)
    }
    with running(artifact, "--max-batch", "4", "--max-delay-ms", "1000") as server:
        paths = [video, long_video] * 12
        with ThreadPoolExecutor(12) as pool:
            answers = list(pool.map(lambda path: post(server, path.read_bytes()), paths))
        for path, answer in zip(paths, answers, strict=True):
            assert answer.status_code == 200
            for given, due in zip(answer.json()["predictions"], wanted[path], strict=True):
                assert given["label"] == due["label"]
                assert given["score"] == pytest.approx(due["score"], abs=2e-6)
        clips = server.metric("stdeploy_batch_clips_sum")
        batches = server.metric("stdeploy_batch_clips_count")
        assert clips == 24 * library.views
        assert batches < 0.8 * clips  # several requests share some


def test_a_key_is_asked_for_where_there_is_one(artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("s3cret\n")
    with running(artifact, "--api-key-file", str(tmp_path / "key")) as server:
        url = f"{server.url}/v1/models"
        refused = httpx.get(url)
        assert (refused.status_code, refused.json()["code"]) == (401, "unauthorized")
        assert refused.headers["www-authenticate"] == "Bearer"
        for headers in (
            {"Authorization": "Bearer wrong"},
            {"X-API-Key": "s3cre"},
            {"Authorization": "Basic s3cret"},
        ):
            assert httpx.get(url, headers=headers).status_code == 401
        assert httpx.get(url, headers={"Authorization": "Bearer s3cret"}).status_code == 200
        assert httpx.get(url, headers={"X-API-Key": "s3cret"}).status_code == 200
        for path in ("/v2", "/v2/models/tiny", "/v2/models/tiny/ready", "/v2/health/live/"):
            assert httpx.get(f"{server.url}{path}").status_code == 401
        for path in ("/livez", "/readyz", "/v2/health/live", "/v2/health/ready"):
            assert httpx.get(f"{server.url}{path}").status_code == 200
        assert httpx.get(f"{server.url}/").status_code == 200
        assert "s3cret" not in "".join(server.log)
