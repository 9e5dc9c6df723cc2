"""The program as its users run it: a process of its own, its output and its exit status."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from stdeploy.artifacts.card import read_card
from stdeploy.backends.base import RuntimeOptions
from stdeploy.cli.data import app as data
from stdeploy.cli.main import app
from stdeploy.cli.video_arguments import expand
from stdeploy.errors import SpecError
from stdeploy.hardware import gpus
from stdeploy.inference.classifier import Classifier, ClassifyOptions
from tests.helpers.program import Inside, records, stdeploy


def test_the_chain_leaves_three_artifacts(chain: Path) -> None:
    assert {p.name for p in chain.iterdir()} >= {"ckpt.pt", "ckpt.fused.safetensors", "ckpt.onnx"}
    assert read_card(chain / "ckpt.onnx").lineage.parent == "ckpt.fused.safetensors"


def test_classify_prints_a_table_of_the_newest_artifact(chain: Path) -> None:
    result = stdeploy("classify", "a.mp4", "--top-k", 2, cwd=chain)
    assert result.returncode == 0, result.stderr
    assert re.search(r"ckpt\.onnx, (onnxruntime|openvino) on CPU in fp32, 1 view", result.stderr)
    assert "a.mp4" in result.stdout
    assert result.stdout.count("class ") == 2


def test_classify_gives_the_numbers_of_the_library(chain: Path) -> None:
    options = ("--views", 3, "--backend", "onnxruntime", "--json")
    (record,) = records(stdeploy("classify", "a.mp4", *options, cwd=chain))
    runtime = RuntimeOptions(backend="onnxruntime")
    with Classifier.open(
        chain / "ckpt.onnx", options=ClassifyOptions(views=3), runtime_options=runtime
    ) as classifier:
        prediction = classifier.classify(chain / "a.mp4")
    assert record["predictions"] == prediction.to_record(5)["predictions"]
    assert record["view_spans_seconds"] == prediction.to_record(5)["view_spans_seconds"]
    assert record["artifact_sha256"] == prediction.artifact_sha256
    assert record["views"] == 3
    assert sum(p["score"] for p in record["predictions"]) == pytest.approx(1.0, abs=1e-5)


def test_a_broken_video_has_its_row_and_the_rest_go_on(chain: Path) -> None:
    names = ["a.mp4", "broken.mp4", "none.mp4", "b.mp4"]
    result = stdeploy("classify", *names, "--json", cwd=chain)
    assert result.returncode == 1
    rows = records(result)
    assert [row["video"] for row in rows] == names
    assert ["error" in row for row in rows] == [False, True, True, False]
    assert "2 of 4 videos could not be classified" in result.stderr
    table = stdeploy("classify", *names, cwd=chain)
    assert table.returncode == 1
    assert "error: does not exist" in table.stdout
    assert "Traceback" not in table.stderr


def test_where_no_video_exists_no_backend_is_opened(chain: Path) -> None:
    script = (
        "import sys\n"
        "sys.modules.update(onnxruntime=None, openvino=None)\n"  # what is absent looks so
        "sys.argv = ['stdeploy', 'classify', 'none.mp4', 'gone.mp4', *sys.argv[1:]]\n"
        "from stdeploy.cli.main import main\nmain()"
    )
    for options in (["--json"], ["--json", "--timeline", "windows"], ["--json", "--untrusted"]):
        result = subprocess.run(
            [sys.executable, "-c", script, *options],
            cwd=chain,
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 1
        assert records(result) == [
            {"video": name, "error": "does not exist; name a video file"}
            for name in ("none.mp4", "gone.mp4")
        ]
        assert result.stderr == (
            "2 of 2 videos could not be classified:\n"
            "  none.mp4 does not exist; name a video file\n"
            "  gone.mp4 does not exist; name a video file\n"
        )


def test_classify_of_an_onnx_file_loads_no_torch(chain: Path) -> None:
    script = (
        "import sys\nfrom stdeploy.cli.main import app\n"
        "app(['classify', 'a.mp4', '--json'], standalone_mode=False)\n"
        "print([m for m in ('torch', 'onnxscript', 'tensorrt') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=chain, capture_output=True, text=True, check=True
    )
    assert result.stdout.splitlines()[-1] == "[]"


def test_classify_runs_every_kind_of_artifact(chain: Path) -> None:
    scores = []
    for name in ("ckpt.pt", "ckpt.fused.safetensors", "ckpt.onnx"):
        (record,) = records(stdeploy("classify", "a.mp4", "-m", name, "--json", cwd=chain))
        scores.append([p["score"] for p in sorted(record["predictions"], key=lambda p: p["label"])])
    np.testing.assert_allclose(scores[1:], [scores[0]] * 2, atol=1e-4)


@pytest.mark.skipif(bool(gpus()), reason="about hosts without a GPU")
def test_trt_without_a_gpu_writes_the_onnx_and_exits_3(chain: Path, tmp_path: Path) -> None:
    shutil.copy(chain / "ckpt.fused.safetensors", tmp_path)
    result = stdeploy("export", "--trt", cwd=tmp_path)
    assert result.returncode == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ckpt.fused.safetensors", "ckpt.onnx"]
    assert "is written and verified, but no engine is built" in result.stderr
    assert "on the GPU host run: stdeploy export ckpt.onnx --trt" in result.stderr
    assert len(result.stderr.splitlines()) == 2  # that it exports, and one line of error


@pytest.mark.skipif(bool(gpus()), reason="about hosts without a GPU")
def test_cuda_asked_for_without_a_gpu_is_one_line_and_no_result(chain: Path) -> None:
    for options in (["--device", "cuda"], ["--device", "cuda", "--backend", "onnxruntime"]):
        result = stdeploy("classify", "a.mp4", *options, "--json", cwd=chain)
        assert result.returncode == 3
        assert result.stdout == ""
        (line,) = result.stderr.splitlines()
        assert line.startswith("stdeploy: CUDAExecutionProvider was asked for")
    allowed = stdeploy("classify", "a.mp4", "--device", "cuda", "--allow-cpu", cwd=chain)
    assert allowed.returncode == 0
    assert "on CPU in fp32" in allowed.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["classify", "a.mp4"], 2, "no *.onnx"),
        (["classify", "a.mp4", "-m", "none.onnx"], 2, "'none.onnx' does not exist"),
        (["classify", "a.mp4", "-m", "bad/bad.onnx"], 2, "'bad/bad.onnx' is no ONNX file"),
        (["fuse", "none.pt"], 2, "'none.pt' does not exist"),
        (["fuse", "bad/bad.pt"], 2, "cannot be read as a checkpoint"),
        (["export"], 2, "no *.fused.safetensors in"),
        (["export", "none.onnx"], 2, "'none.onnx' does not exist"),
        (["export", "bad/bad.pt"], 2, "cannot be read as a checkpoint"),
        (["train", "--recipe", "none"], 2, "no recipe 'none'"),
        (["train", "--set", "optimisation.epochs=two"], 2, "'two': a whole number is allowed"),
        (["train", "--set", "start.freeze=[conv1]"], 2, "a shell takes quotation marks away"),
        (["train", "--weights", "kinetics400-i3d.pt"], 2, "`stdeploy pull kinetics400-i3d` brings"),
        (["train", "--weights", "kinetic400-i3d.pt"], 2, "did you mean 'kinetics400-i3d.pt'?"),
        (["train", "--temporal-lengths", "1,2,3,3,3"], 2, "t2 is 2"),
        (["train", "--temporal-lengths", "x"], 2, "write t1..t5 as 1,1,3,3,5"),
        (["evaluate", "bad/bad.pt", "--data", "."], 2, "is no data set that is known here"),
        (["train", "--data", "bad"], 2, "is no data set that is known here"),
        (["train", "--set", "optimisation.epoch=1"], 2, "did you mean 'epochs'"),
        (["ablate", "--tables", "5"], 2, "no table '5'"),
        (["ablate", "--seeds", "x"], 2, "write numbers from 0"),
        (["ablate", "--task", "order", "--seeds", "1,2"], 2, "takes seeds from 0 up"),
        (["ablate", "--task", "order", "--views", "3"], 2, "--views belongs to the rows"),
        (["data", "check", "none"], 2, "'none' does not exist"),
        (["data", "split", "bad", "-o", "x"], 2, "bad' holds no folder; each of two or more"),
        (["data", "mini", "bad", "-o", "x"], 2, "is no data set that is known here"),
        (["flops"], 2, "name one artifact, or pass --architecture, or --paper-tables"),
        (["flops", "--architecture", "none"], 2, "architecture 'none' is not known"),
        (["export", "--batches", "8,4"], 2, "need 1 <= best <= largest"),
        (["export", "--target", "sm86"], 2, "add --trt"),
        (["export", "--trt", "--target", "sm61"], 2, "--target sm61: TensorRT-RTX builds for"),
        (["export", "bad/bad.onnx", "--trt", "--precision", "int8"], 2, "has its precision"),
        (["export", "--allow", "kl"], 2, "write name=number"),
        (["bench"], 2, "nothing to measure in"),
        (["bench", "bad/bad.onnx"], 2, "'bad/bad.onnx' is no ONNX file"),
        (["bench", "--batches", "0"], 2, "write numbers from 1"),
        (["card", "a.mp4"], 2, "no artifact of stdeploy"),
        (["pull", "sample-video", "-o", "bad"], 2, "the name has to end in .mp4"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_input_is_one_clear_line(
    inside: Inside, tmp_path: Path, arguments: list[str], status: int, message: str
) -> None:
    (tmp_path / "bad").mkdir()
    for name in ("bad.onnx", "bad.pt"):
        (tmp_path / "bad" / name).write_bytes(b"garbage")
    result = inside(*arguments, cwd=tmp_path)
    assert result.returncode == status, result.stderr
    (line,) = result.stderr.strip().splitlines()
    assert message in line
    assert line.startswith("stdeploy: ")
    assert [p.name for p in tmp_path.iterdir()] == ["bad"]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("serve --max-batch x", "--max-batch 'x': a whole number is allowed; see stdeploy serve"),
        (
            "classify --views 99",
            "--views '99': 64 or less is allowed; see stdeploy classify --help",
        ),
        ("classify --hop 2 --no-cuts a", "--hop and --cuts: only of a timeline; add --timeline"),
        ("classify --enter 0 a", "--enter: only of a timeline; add --timeline windows"),
        ("classify --hop 0 a", "--hop '0': 0.001 or more is allowed; see stdeploy classify --help"),
        ("data mini a --seed x", "--seed 'x': a whole number is allowed; see stdeploy data mini "),
        (
            "train --accelerator tpu",
            "--accelerator: 'tpu' is not one of 'auto', 'cpu', 'cuda'; see",
        ),
        ("classify --topk 3 a.mp4", "no such option: --topk; did you mean --top-k?"),
        ("classify --zzz a.mp4", "no such option: --zzz; see stdeploy classify --help"),
        ("classify --top-k", "option '--top-k' requires an argument"),
        ("fuse", "missing argument 'checkpoint'; see stdeploy fuse --help"),
        ("pull", "missing argument 'item'. Choose from: kinetics400-i3d, sample-video; see "),
        ("card a b", "got unexpected extra argument(s) (b); see stdeploy card --help"),
        ("predict a.mp4", "no such command 'predict'; use stdeploy classify; see stdeploy --help"),
        ("eval a.onnx", "no such command 'eval'; use stdeploy evaluate; see stdeploy --help"),
        ("check clips", "no such command 'check'; use stdeploy data check; see"),
        ("train --epochs 3", "no such option: --epochs; use --set optimisation.epochs=N; see"),
        ("train --lr 1", "no such option: --lr; use --set optimisation.learning_rate=X; see"),
        ("train --batch-size 1", "no such option: --batch-size; use --set optimisation.batch_siz"),
        ("train --gpus 2", "no such option: --gpus; use --devices; see stdeploy train --help"),
        ("train --song 2", "no such option: --song; see stdeploy train --help"),
        ("classify --epochs 3", "no such option: --epochs; see stdeploy classify --help"),
        (
            "classify https://a.b/c.mp4?d=1",
            "'https://a.b/c.mp4?d=1' is an address, no file; download it first (curl -LO "
            "'https://a.b/c.mp4?d=1'), or watch it if it is a stream: stdeploy watch ",
        ),
        ("classify rtsp://a/b", "'rtsp://a/b' is an address, no file; watch it if it is a stream"),
        ("fuze", "no such command 'fuze'. Did you mean 'fuse'?"),
    ],
)
def test_wrong_usage_is_one_line(inside: Inside, tmp_path: Path, arguments: str, line: str) -> None:
    result = inside(*arguments.split(), cwd=tmp_path)
    assert result.returncode == 2
    assert result.stdout == ""
    (said,) = result.stderr.splitlines()
    assert said.startswith(f"stdeploy: {line}")


def test_the_help_breaks_lines_where_the_terminal_ends_only() -> None:
    for verb in (*app.registered_commands, *data.registered_commands):
        assert verb.help
        assert "\n" not in verb.help.replace("\n\n", "")


def test_without_a_command_the_help_is_shown(inside: Inside, tmp_path: Path) -> None:
    for arguments, words in (([], "pull"), (["data"], "mini"), (["analyze"], "receptive-field")):
        result = inside(*arguments, cwd=tmp_path)
        assert (result.returncode, result.stderr) == (2, "")
        assert words in result.stdout


@pytest.mark.parametrize("verb", ["train", "ablate"])
def test_a_wrong_recipe_is_refused_before_torch_is_imported(tmp_path: Path, verb: str) -> None:
    script = (
        "import sys\n"
        "sys.modules.update(torch=None)\n"  # what is absent looks so
        f"sys.argv = ['stdeploy', '{verb}', '--set', 'optimisation.epochs=two']\n"
        "from stdeploy.cli.main import main\nmain()"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode == 2
    assert "epochs = 'two': a whole number is allowed" in result.stderr


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    result = stdeploy("--debug", "fuse", "none.pt", cwd=tmp_path)
    assert "Traceback" in result.stderr
    assert "ArtifactError" in result.stderr


def test_a_missing_extra_prints_the_pip_command(chain: Path) -> None:
    script = (
        "import sys\n"
        "sys.modules.update(onnxruntime=None, openvino=None)\n"  # what is absent looks so
        "sys.argv = ['stdeploy', 'classify', 'a.mp4']\n"
        "from stdeploy.cli.main import main\nmain()"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=chain, capture_output=True, text=True, check=False
    )
    assert result.returncode == 3
    assert "pip install 'stdeploy[cpu]'" in result.stderr


def test_version_and_help(inside: Inside, tmp_path: Path) -> None:
    assert stdeploy("--version", cwd=tmp_path).stdout.startswith("stdeploy 0.")
    listed = inside("--help", cwd=tmp_path).stdout
    verbs = "pull data train ablate fuse export classify evaluate bench flops card doctor"
    assert "<bool>" not in listed
    order = re.findall(r"(?m)^\W? ([a-z]+)  ", listed)
    assert order[:3] == ["doctor", "pull", "data"]  # groups of verbs stand among the others
    assert set(verbs.split()) < set(order)
    for verb in verbs.split():
        shown = inside(verb, "--help", cwd=tmp_path)
        assert shown.returncode == 0
        assert re.findall(r" range|<list\[", shown.stdout) == []


def test_flops_of_an_artifact(inside: Inside, chain: Path) -> None:
    counted = json.loads(inside("flops", "ckpt.pt", "--json", cwd=chain).stdout)
    multi, single, fused = (counted[k] for k in ("multi-branch", "single filters", "fused"))
    assert 0 < fused["macs"] == single["macs"] < multi["macs"]
    assert fused["total"] < single["total"]  # no norms are left
    for cost in (multi, single, fused):
        assert sum(cost["by_stage"].values()) == cost["total"]
        assert list(cost["by_layer"]) == list(fused["by_layer"])
    of_artifact = json.loads(inside("flops", "ckpt.onnx", "--json", cwd=chain).stdout)
    assert of_artifact["fused"] == fused
    assert "conv5.1.conv2" in inside("flops", "ckpt.onnx", "--layers", cwd=chain).stdout


def test_folders_patterns_and_files_expand_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clips").mkdir()
    for name in ("clips/b.MP4", "clips/a.webm", "clips/notes.txt", "z.avi"):
        (tmp_path / name).touch()
    assert [str(p) for p in expand(["z.avi", "clips", "clips/*.webm", "gone.mp4"])] == [
        "z.avi",
        "clips/a.webm",
        "clips/b.MP4",
        "gone.mp4",
    ]
    (tmp_path / "empty").mkdir()
    # What cannot be expanded keeps its row.
    for argument in ("empty", "*.mkv", "gone[1].mp4", "**.mp4"):
        assert expand([argument]) == [Path(argument)]
    told: list[str] = []
    assert expand(["clip", "far.mp4", "z.avi"], report=told.append)[0] == Path("clip")
    assert told == ["clip does not exist; did you mean 'clips'?"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fuse", "ckpt.pt", "-o", "ckpt.pt"], "has to end in .safetensors"),
        (["fuse", "ckpt.pt", "-o", "no/x.safetensors"], "is no folder that can be written to"),
        (["export", "-o", "x.bin"], "has to end in .onnx"),
        (["pull", "sample-video", "-o", "x.bin"], "has to end in .mp4"),
        (["train", "-o", "no/x.pt"], "is no folder that can be written to"),
    ],
)
def test_outputs_that_cannot_be_are_refused_before_any_work(
    inside: Inside, chain: Path, arguments: list[str], message: str
) -> None:
    before = {path.name: path.read_bytes() for path in chain.iterdir()}
    result = inside(*arguments, cwd=chain)
    assert result.returncode == 2
    assert message in result.stderr.splitlines()[-1]
    assert {path.name: path.read_bytes() for path in chain.iterdir()} == before


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_names_that_the_terminal_lacks_do_not_stop_the_run(chain: Path, encoding: str) -> None:
    name = "Ж.mp4"
    shutil.copy(chain / "a.mp4", chain / name)
    try:
        for options in ([], ["--json"]):
            result = stdeploy(
                "classify", name, "a.mp4", *options, cwd=chain, PYTHONIOENCODING=encoding
            )
            assert result.returncode == 0, result.stderr
            assert "a.mp4" in result.stdout
    finally:
        (chain / name).unlink()


def test_a_list_of_labelled_videos_is_a_list_of_videos(tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    labelled = tmp_path / "lists" / "validation.csv"
    labelled.write_text("label,path\nfight,a.mp4\nnoFight,b.mp4\n")
    assert expand([], lists=[labelled]) == [labelled.parent / "a.mp4", labelled.parent / "b.mp4"]
    with pytest.raises(SpecError, match=r"is a list of videos, no video; name it as --list"):
        expand([str(labelled)])
    (tmp_path / "lists" / "all.txt").write_text("# of today\n../clips/c.mp4\nd.mp4\n")
    inside = tmp_path.resolve()
    assert expand([], lists=[inside / "lists" / "all.txt"]) == [
        inside / "clips" / "c.mp4",
        inside / "lists" / "d.mp4",
    ]
