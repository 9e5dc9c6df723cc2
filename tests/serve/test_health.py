"""How the server starts, fails, recovers and ends."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest

from stdeploy.hardware import gpus
from tests.serve.conftest import CLIP, free_port, running
from tests.serve.test_v1 import events, post


def serve(*arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "stdeploy", "serve", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | variables,
    )


def test_probes_are_red_and_green_in_their_order(artifact: Path) -> None:
    with running(artifact, ready=False) as server:
        assert httpx.get(f"{server.url}/livez").status_code == 200
        server.wait_until(lambda: httpx.get(f"{server.url}/startupz").status_code == 200)
        assert httpx.get(f"{server.url}/readyz").json() == {"status": "ready", "reason": None}


def test_the_address_is_said_when_it_answers(artifact: Path) -> None:
    with running(artifact) as server:
        assert httpx.get(f"{server.url}/readyz").status_code == 200
        said = [line for line in server.log if not line.startswith("{")]
        assert said == [
            f"opening {artifact} ...\n",
            f"{artifact} at {server.url}  (Ctrl-C ends it)\n",
        ]


@pytest.mark.skipif(bool(gpus()), reason="needs a host without an NVIDIA GPU")
def test_no_address_is_said_where_the_model_cannot_be_opened(artifact: Path) -> None:
    result = serve(str(artifact), "--device", "cuda", "--port", "0")
    assert result.returncode == 3
    assert "opening " in result.stderr
    assert "http://" not in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "variables", "status", "words"),
    [
        (("-m", "nothing.onnx"), {}, 2, "'nothing.onnx' does not exist"),
        (("nothing.onnx",), {}, 2, "'nothing.onnx' does not exist"),
        (("a.onnx", "-m", "b.onnx"), {}, 2, "'a.onnx' and --model 'b.onnx' are two artifacts"),
        (("--max-batch", "0"), {}, 2, "--max-batch 0: a whole number from 1 to 256 is allowed"),
        ((), {"STDEPLOY_SERVE_PORT": "x"}, 2, "SERVE_PORT=x: a whole number from 0 to 65535 is"),
        (("--tls-key", "a.pem"), {}, 2, "stdeploy: --tls-key a.pem needs --tls-certificate beside"),
        (("--metrics-port", "8000"), {}, 2, "--metrics-port 8000 and --port 8000 .*the same port"),
        (("--config", "none.toml"), {}, 2, "'none.toml' cannot be read"),
    ],
)
def test_a_wrong_setting_is_one_line_and_its_exit_status(
    arguments: tuple[str, ...], variables: dict[str, str], status: int, words: str
) -> None:
    result = serve(*arguments, **variables)
    assert result.returncode == status
    with pytest.raises(ValueError, match=words):
        raise ValueError(" ".join(result.stderr.split()))
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("flag", ["--port", "--metrics-port"])
def test_an_address_that_is_taken_is_one_line_with_its_flag(artifact: Path, flag: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = serve(str(artifact), "--port", "0", flag, port)
    assert result.returncode == 3
    words = f"cannot listen on 127.0.0.1:{port}: Address already in use; choose another {flag}"
    assert result.stderr == f"stdeploy: {words}\n"


def test_a_certificate_that_is_none_is_one_line(artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "a.pem").write_text("no certificate")
    pem = str(tmp_path / "a.pem")
    result = serve(
        *("-m", str(artifact), "--port", "0", "--tls-certificate", pem, "--tls-key", pem)
    )
    assert result.returncode == 2
    assert "cannot be used" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_damaged_artifact_ends_the_server_with_one_line(artifact: Path, tmp_path: Path) -> None:
    import onnx

    model = onnx.load(artifact)
    weight = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    weight.raw_data = bytes(len(weight.raw_data))
    onnx.save(model, tmp_path / "damaged.onnx")
    result = serve("-m", str(tmp_path / "damaged.onnx"), "--port", "0", "--log-level", "error")
    assert result.returncode == 2
    assert "damaged.onnx' is not as it was written" in result.stderr
    assert "Traceback" not in result.stderr


def test_sigterm_answers_what_was_taken_and_takes_no_more(artifact: Path, long_video: Path) -> None:
    query = {"stream": 1, "timeline": 1, "hop_seconds": 0.1}
    with running(artifact) as server, ThreadPoolExecutor(8) as pool:
        content = long_video.read_bytes()
        taken = [pool.submit(post, server, content, **query) for _ in range(4)]
        server.wait_until(lambda: server.metric("stdeploy_requests_in_progress") == 4)
        server.process.send_signal(signal.SIGTERM)
        server.wait_until(lambda: httpx.get(f"{server.url}/readyz").status_code == 503)
        refused = post(server, content)
        assert (refused.status_code, refused.json()["code"]) == (503, "draining")
        assert httpx.get(f"{server.url}/livez").status_code == 200
        for future in taken:
            assert events(future.result().text)[-1][0] == "end"
        assert server.process.wait(10) == 0


@pytest.mark.parametrize("told_twice", [False, True])
def test_draining_is_bounded_and_streams_hear_of_the_end(
    artifact: Path, video: Path, *, told_twice: bool
) -> None:
    query = {"stream": 1, "timeline": 1, "hop_seconds": 0.1}
    content = video.read_bytes()
    bound = "60" if told_twice else "0.2"
    with running(artifact, "--drain-seconds", bound) as server, ThreadPoolExecutor(4) as pool:
        with server.decoding_stopped():
            taken = [pool.submit(post, server, content, **query) for _ in range(4)]
            server.wait_until(lambda: server.metric("stdeploy_requests_in_progress") == 4)
            server.process.send_signal(signal.SIGINT)
            if told_twice:
                server.wait_until(lambda: httpx.get(f"{server.url}/readyz").status_code == 503)
                server.process.send_signal(signal.SIGINT)
            answers = [events(future.result().text) for future in taken]  # whole, as HTTP says
        assert server.process.wait(30) == 0
    for answer in answers:
        ((name, error),) = answer
        assert (name, error["code"]) == ("error", "draining")
    assert not any("Traceback" in line for line in server.log)
    assert not any("broken off" in line for line in server.log)


def test_an_answer_in_one_piece_hears_of_the_end_too(artifact: Path, video: Path) -> None:
    with (
        running(artifact, "--drain-seconds", "0") as server,
        ThreadPoolExecutor(1) as pool,
        server.decoding_stopped(),
    ):
        taken = pool.submit(post, server, video.read_bytes())
        server.wait_until(lambda: server.metric("stdeploy_requests_in_progress") == 1)
        server.process.send_signal(signal.SIGTERM)
        answer = taken.result()
        assert (answer.status_code, answer.json()["code"]) == (503, "draining")


def test_a_decoding_process_that_is_killed_costs_no_answer(artifact: Path, video: Path) -> None:
    content = video.read_bytes()
    with running(artifact) as server, ThreadPoolExecutor(1) as pool:
        wanted = post(server, content).json()["predictions"]
        # One that had not got the video yet was idle, and does not count.
        while server.metric("stdeploy_decode_processes_lost_total") < 3:
            with server.decoding_stopped() as processes:
                asked = pool.submit(post, server, content)
                server.wait_until(lambda: server.metric("stdeploy_requests_in_progress") == 1)
                for process in processes:
                    os.kill(process, signal.SIGKILL)
            answer = asked.result()
            assert answer.status_code == 200
            assert answer.json()["predictions"] == wanted


def test_a_client_that_leaves_takes_its_work_with_it(artifact: Path, long_video: Path) -> None:
    with running(artifact) as server:
        host, port = server.address
        content = long_video.read_bytes()
        head = (
            f"POST /v1/classify?timeline=1&hop_seconds=0.1 HTTP/1.1\r\nHost: localhost\r\n"
            f"Content-Type: video/mp4\r\nContent-Length: {len(content)}\r\n\r\n"
        ).encode()
        for _ in range(10):
            with socket.create_connection((host, port)) as connection:
                connection.sendall(head + content)
                server.wait_until(lambda: server.metric("stdeploy_requests_in_progress") >= 1)
        server.wait_until(lambda: server.metric("stdeploy_requests_in_progress") == 0, 5)
        server.wait_until(lambda: server.left_uploads() == [], 5)

        def nothing_is_worked_on() -> bool:
            before = server.metric("stdeploy_batch_clips_sum")
            time.sleep(0.7)
            return server.metric("stdeploy_batch_clips_sum") == before

        server.wait_until(nothing_is_worked_on)  # once the network has ended its batch
        windows = 10 * 60 / 0.1  # of ten videos of a minute
        assert server.metric("stdeploy_batch_clips_sum") < windows / 2
        assert post(server, content).status_code == 200


def test_a_client_of_v2_that_leaves_does_not_take_the_network_with_it(
    artifact: Path, video: Path
) -> None:
    clips = np.zeros((400, *CLIP.frames_shape), np.uint8)
    tensor = {
        "name": "frames",
        "shape": clips.shape,
        "datatype": "UINT8",
        "parameters": {"binary_data_size": clips.nbytes},
    }
    text = json.dumps({"inputs": [tensor]}).encode()
    head = (
        f"POST /v2/models/tiny/infer HTTP/1.1\r\nHost: localhost\r\n"
        f"Inference-Header-Content-Length: {len(text)}\r\n"
        f"Content-Length: {len(text) + clips.nbytes}\r\n\r\n"
    ).encode()
    for seconds, answer in (("60", b""), ("0.3", b"HTTP/1.1 504")):
        with running(artifact, "--request-seconds", seconds) as server:
            with socket.create_connection(server.address) as connection:
                connection.sendall(head + text + clips.tobytes())
                if answer:
                    assert connection.recv(12) == answer
                else:
                    server.wait_until(lambda: server.metric("stdeploy_queue_clips") > 0)
            server.wait_until(lambda: server.metric("stdeploy_requests_in_progress") == 0)
            assert server.metric("stdeploy_queue_clips") == 0
            assert post(server, video.read_bytes()).status_code == 200
            assert not any("Traceback" in line for line in server.log)


def test_a_body_that_is_coming_at_sigterm_is_answered(artifact: Path, video: Path) -> None:
    content = video.read_bytes()
    with running(artifact) as server, socket.create_connection(server.address) as connection:
        head = (
            f"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nContent-Type: video/mp4\r\n"
            f"Connection: close\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        connection.sendall(head.encode() + content[:1000])
        server.wait_until(lambda: len(server.left_uploads()) == 1)
        server.process.send_signal(signal.SIGTERM)
        server.wait_until(lambda: httpx.get(f"{server.url}/readyz").status_code == 503)
        connection.sendall(content[1000:])
        assert connection.recv(12) == b"HTTP/1.1 200"


def test_sigterm_while_the_model_opens_leaves_nothing(artifact: Path) -> None:
    with running(artifact, ready=False) as server:
        server.process.send_signal(signal.SIGTERM)


def test_every_setting_is_a_flag_a_variable_and_a_key(
    artifact: Path, video: Path, tmp_path: Path
) -> None:
    (tmp_path / "s.toml").write_text("views = 2\nmax_held_bytes = 5000\nmax_body_bytes = 5000\n")
    config = ("--config", str(tmp_path / "s.toml"), "--max-body-bytes", "2000000")
    with running(artifact, *config, STDEPLOY_SERVE_VIEWS="4") as server:
        content = video.read_bytes()
        # The flag goes before the file, which says what no flag says.
        assert post(server, content).json()["code"] == "no_room"
    (tmp_path / "s.toml").write_text("views = 2\n")
    with running(artifact, *config, STDEPLOY_SERVE_VIEWS="4") as server:
        assert post(server, content).json()["views"] == 4


def test_metrics_can_have_a_port_of_their_own(artifact: Path) -> None:
    port = free_port()
    with running(artifact, "--metrics-port", str(port)) as server:
        assert httpx.get(f"{server.url}/metrics").status_code == 404
        text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
        assert "stdeploy_ready 1.0" in text
        assert 'backend="onnxruntime",device="CPU"' in text
        assert httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200


def test_what_a_killed_server_left_is_taken_away_at_the_next_start(
    artifact: Path, tmp_path: Path
) -> None:
    code = (
        "import os, sys; from pathlib import Path; from stdeploy.serve.uploads import UploadFolder;"
        "folder = UploadFolder(Path(sys.argv[1])); (folder.path / 'video').write_bytes(b'x');"
        "os._exit(1)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert [path.name for path in tmp_path.rglob("video")] == ["video"]
    with running(artifact, "--upload-folder", str(tmp_path)) as server:
        assert list(tmp_path.rglob("video")) == []
        assert len(list(tmp_path.iterdir())) == 1
        assert (next(tmp_path.iterdir()).stat().st_mode & 0o777) == 0o700
        del server
    assert list(tmp_path.iterdir()) == []
