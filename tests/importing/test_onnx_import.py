"""Anyone's .onnx file to an artifact that repeats its answers."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

import stdeploy
from stdeploy.artifacts.card import ModelCard
from stdeploy.artifacts.spec import ForeignSpec
from stdeploy.backends.loader import open_runtime
from stdeploy.errors import ArtifactError, ParityError, SpecError
from stdeploy.importing.onnx_import import ImportResult, import_onnx
from tests.helpers.program import stdeploy as run
from tests.importing.networks import (
    CLASSES,
    FRAMES,
    MEAN,
    SIDE,
    STD,
    TinyNetwork,
    Transformer,
    TwoPaths,
    built,
    golden_frames,
    owners_answer,
    owners_input,
    write_onnx,
    write_toml,
)

CLIP = (3, FRAMES, SIDE, SIDE)


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Exported files, each made once."""
    folder = tmp_path_factory.mktemp("foreign")
    made: dict[tuple[Any, ...], Path] = {}

    def file(
        layout: str = "NCTHW",
        end: str = "logits",
        *,
        batch: int | None = None,
        legacy: bool = False,
    ) -> Path:
        key = (layout, end, batch, legacy)
        if key not in made:
            sizes = {"V": 1, "C": 3, "T": FRAMES, "H": SIDE, "W": SIDE}
            model = built(lambda: TinyNetwork(layout, end))
            shape = tuple(sizes[axis] for axis in layout[1:])
            path = folder / f"{len(made)}.onnx"
            made[key] = write_onnx(model, path, shape, batch=batch, legacy=legacy)
        return made[key]

    return file


def imported(file: Path, folder: Path, **changes: Any) -> ImportResult:
    description = write_toml(folder / "clip.toml", **changes)
    return import_onnx(file, description, folder / "x.onnx")


def answers(path: Path, count: int = 3) -> np.ndarray[Any, np.dtype[np.float32]]:
    with open_runtime(path) as runtime:
        return runtime.run(golden_frames(count))


def expected(end: str = "logits", count: int = 3) -> np.ndarray[Any, np.dtype[np.float64]]:
    model = built(lambda: TinyNetwork(end=end))
    return owners_answer(model, owners_input(golden_frames(count)))


def close(actual: Any, wanted: Any) -> bool:
    return float(np.abs(actual - wanted).max() / np.abs(wanted).max()) < 1e-5


@pytest.mark.parametrize("layout", ["NCTHW", "NTHWC", "NTCHW", "NVCTHW", "NVTHWC"])
def test_a_network_of_any_layout_answers_as_its_owner(
    files: Callable[..., Path], tmp_path: Path, layout: str
) -> None:
    result = imported(files(layout), tmp_path, input={"layout": layout})
    assert close(answers(result.path), expected())
    assert [row.check for row in result.parity] == [
        f"onnxruntime, batch {batch}" for batch in (1, 2, 5)
    ]
    assert all(row.passed for row in result.parity)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("batch", [1, 3])
def test_a_fixed_batch_is_made_free(
    files: Callable[..., Path], tmp_path: Path, batch: int, legacy: bool
) -> None:
    result = imported(files(batch=batch, legacy=legacy), tmp_path)
    assert close(answers(result.path, 4), expected(count=4))
    assert any(f"fixed at {batch}" in note for note in result.notes)


class Steps(torch.nn.Module):
    """Features of each frame through an LSTM, whose first states exporters write as constants."""

    def __init__(self) -> None:
        super().__init__()
        self.features = torch.nn.Conv2d(3, 6, 8, stride=8)
        self.steps = torch.nn.LSTM(6, 5, batch_first=True, bidirectional=True)
        self.classifier = torch.nn.Linear(10, CLASSES)

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        """Map (N, 3, T, H, W) to (N, K)."""
        n, c, t = clip.shape[:3]
        frames = clip.transpose(1, 2).reshape(n * t, c, *clip.shape[3:])
        features = torch.relu(self.features(frames)).mean((2, 3)).view(n, t, -1)
        logits: torch.Tensor = self.classifier(self.steps(features)[0][:, -1])
        return logits


class Shifted(torch.nn.Module):
    """A temporal shift, which joins frames of zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.features = torch.nn.Conv2d(3, 6, 8, stride=8)
        self.classifier = torch.nn.Linear(6, CLASSES)

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        """Map (N, 3, T, H, W) to (N, K)."""
        n, c, t = clip.shape[:3]
        frames = clip.transpose(1, 2).reshape(n * t, c, *clip.shape[3:])
        x = self.features(frames).view(n, t, 6, -1)
        moved = torch.cat([x[:, 1:, :3], torch.zeros_like(x[:, :1, :3])], dim=1)
        x = torch.relu(torch.cat([moved, x[:, :, 3:]], dim=2)).mean(3).flatten(0, 1)
        logits: torch.Tensor = self.classifier(x).view(n, t, -1).mean(1)
        return logits


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("batch", [1, 2, None])
@pytest.mark.parametrize("make", [Transformer, Steps, Shifted])
def test_other_structures_take_any_batch(
    tmp_path: Path, make: Callable[[], torch.nn.Module], batch: int | None, legacy: bool
) -> None:
    """Their batch lies within heads, between time and features, or is joined to constants."""
    model = built(make)
    file = write_onnx(model, tmp_path / "net.onnx", CLIP, batch=batch, legacy=legacy)
    result = imported(file, tmp_path)
    assert close(answers(result.path), owners_answer(model, owners_input(golden_frames(3))))
    assert any("made free" in note for note in result.notes) == (batch is not None)


class OneClip(TinyNetwork):
    """Says that it gives one row, whatever batch it takes."""

    def _classify(self, features: torch.Tensor) -> torch.Tensor:
        return super()._classify(features.view(1, 12))


@pytest.mark.parametrize("size", [None, 0, -1])
def test_a_batch_that_is_free_in_name_only_is_made_free(tmp_path: Path, size: int | None) -> None:
    file = write_onnx(built(OneClip), tmp_path / "net.onnx", CLIP, batch=1, legacy=True)
    graph = onnx.load(file)
    batch = graph.graph.input[0].type.tensor_type.shape.dim[0]
    batch.Clear()
    if size is None:
        batch.dim_param = "n"
    else:
        batch.dim_value = size
    onnx.save(graph, file)
    result = imported(file, tmp_path)
    assert close(answers(result.path), expected())
    assert any("fixed at 1" in note for note in result.notes)


def test_clips_that_change_each_others_answers_are_refused(tmp_path: Path) -> None:
    class Mixing(TinyNetwork):
        def forward(self, clip: torch.Tensor) -> torch.Tensor:
            logits = super().forward(clip)
            return logits - logits.mean(0, keepdim=True)

    file = write_onnx(built(Mixing), tmp_path / "net.onnx", CLIP)
    with pytest.raises(ParityError, match="depends on the others of a batch"):
        imported(file, tmp_path)
    assert not (tmp_path / "x.onnx").exists()


def test_what_the_chosen_output_does_not_need_is_left_out(tmp_path: Path) -> None:
    """Here a norm that follows no convolution, behind another output."""

    class TwoOutputs(TinyNetwork):
        def __init__(self) -> None:
            super().__init__()
            self.norm4 = torch.nn.BatchNorm3d(3)

        def forward(self, clip: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return super().forward(clip), self.norm4(clip).mean((2, 3, 4))

    file = write_onnx(built(TwoOutputs), tmp_path / "net.onnx", CLIP, legacy=True)
    graph = onnx.load(file).graph
    names = [value.name for value in graph.output]
    with pytest.raises(SpecError, match=r"has the outputs 'logits', .*; output.name chooses one"):
        imported(file, tmp_path)
    result = imported(file, tmp_path, output={"name": names[0]})
    assert close(answers(result.path), expected())
    assert not any("norm4" in t.name for t in onnx.load(result.path).graph.initializer)


def test_batch_norms_are_gone_and_the_input_is_ours(
    files: Callable[..., Path], tmp_path: Path
) -> None:
    original = onnx.load(files(legacy=True))
    assert [n.op_type for n in original.graph.node].count("BatchNormalization") == 3
    result = imported(files(legacy=True), tmp_path)
    graph = onnx.load(result.path).graph
    assert "BatchNormalization" not in {node.op_type for node in graph.node}
    assert "2 batch norms folded in float64" in result.notes
    (frames,), (logits,) = graph.input, graph.output
    assert (frames.name, logits.name) == ("frames", "logits")
    assert frames.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert frames.type.tensor_type.shape.dim[0].dim_param == "batch"


def test_folding_is_exact_to_float64(files: Callable[..., Path], tmp_path: Path) -> None:
    model = built(TinyNetwork)
    assert isinstance(model, TinyNetwork)
    conv, norm = model.conv1.weight.double(), model.norm1
    assert norm.running_var is not None
    scale = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
    wanted = (conv * scale.reshape(-1, 1, 1, 1, 1)).float().detach().numpy()
    result = imported(files(legacy=True), tmp_path)
    weights = {
        t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(result.path).graph.initializer
    }
    assert np.array_equal(weights["conv1.weight"], wanted)


@pytest.mark.parametrize("end", ["softmax", "softmax of positions"])
def test_probabilities_become_logits_whose_softmax_they_are(
    files: Callable[..., Path], tmp_path: Path, end: str
) -> None:
    result = imported(files(end=end), tmp_path, output={"gives": "probabilities"})
    powers = np.exp(answers(result.path).astype(np.float64))
    assert close(powers / powers.sum(axis=1, keepdims=True), expected(end))
    operators = [node.op_type for node in onnx.load(result.path).graph.node]
    assert ("Log" in operators) == ("Softmax" in operators) == (end != "softmax")


def test_rows_for_each_frame_are_averaged(files: Callable[..., Path], tmp_path: Path) -> None:
    result = imported(files(end="per frame"), tmp_path, output={"per_frame": True})
    assert close(answers(result.path), expected("per frame").mean(axis=1))
    assert isinstance(result.card.model, ForeignSpec)
    assert result.card.model.per_frame


def test_bgr_in_0_to_255(files: Callable[..., Path], tmp_path: Path) -> None:
    numbers = {name: [255 * v for v in values] for name, values in (("mean", MEAN), ("std", STD))}
    result = imported(
        files(), tmp_path, input={"range": "0..255", "colour_order": "BGR", **numbers}
    )
    frames = owners_input(golden_frames(3), largest=255.0, bgr=True)
    assert close(answers(result.path), owners_answer(built(TinyNetwork), frames))
    # For R, G, B and in 0..1, as every other card has them.
    assert np.allclose(result.card.clip.mean, MEAN[::-1])
    assert np.allclose(result.card.clip.std, STD[::-1])


@pytest.fixture(scope="session")
def two_paths(tmp_path_factory: pytest.TempPathFactory) -> Path:
    slow = (3, FRAMES // 4, SIDE, SIDE)
    path = tmp_path_factory.mktemp("paths") / "two.onnx"
    return write_onnx(built(TwoPaths), path, slow, CLIP)


def test_paths_of_two_frame_rates(two_paths: Path, tmp_path: Path) -> None:
    paths = [{"name": "input0", "every": 4}, {"name": "input1", "every": 1}]
    result = imported(two_paths, tmp_path, input={"paths": paths})
    clips = owners_input(golden_frames(3))
    assert close(answers(result.path), owners_answer(built(TwoPaths), clips[:, :, ::4], clips))
    listed = [{"name": "input0", "frames": [0, 7]}, {"name": "input1", "every": 1}]
    result = imported(two_paths, tmp_path, input={"paths": listed})
    assert close(answers(result.path), owners_answer(built(TwoPaths), clips[:, :, [0, 7]], clips))


def test_swapped_paths_do_not_fit(two_paths: Path, tmp_path: Path) -> None:
    paths = [{"name": "input1", "every": 4}, {"name": "input0", "every": 1}]
    with pytest.raises(SpecError, match=r"'input1' of shape \(N, 3, 8, 32, 32\); .* 2 frames"):
        imported(two_paths, tmp_path, input={"paths": paths})
    with pytest.raises(SpecError, match=r"has 2 inputs .*\[\[input.paths\]\]"):
        imported(two_paths, tmp_path)
    paths = [{"name": "slow", "every": 4}, {"name": "input1", "every": 1}]
    with pytest.raises(SpecError, match=r"input.paths names 'slow', 'input1'"):
        imported(two_paths, tmp_path, input={"paths": paths})


def with_owner(folder: Path, logits: Any) -> dict[str, str]:
    np.save(folder / "clip.npy", golden_frames(4)[3])
    np.save(folder / "logits.npy", logits)
    return {"clip": "clip.npy", "logits": "logits.npy"}


def test_the_card_tells_what_is_known(files: Callable[..., Path], tmp_path: Path) -> None:
    alone = imported(files(), tmp_path).card
    assert alone.lineage.origin == "a test; compared with itself only"
    assert alone.lineage.licence == "MIT"
    assert alone.lineage.parent == files().name
    assert isinstance(alone.model, ForeignSpec)
    assert alone.model.compared_with == "itself"
    assert not {"temporal_lengths", "branches", "eta"} & set(alone.model.model_dump())
    owner = with_owner(tmp_path, expected(count=4)[3])
    known = imported(files(), tmp_path, owner=owner).card
    assert known.lineage.origin == "a test; compared with its owner's answer"
    assert known.parity[-1].check == "onnxruntime, the owner's clip"
    assert ModelCard.from_json(known.to_json(), source="") == known
    assert stdeploy.read_card(tmp_path / "x.onnx") == known


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"colour_order": "BGR"}, 'colour_order = "RGB" it answers as'),
        ({"mean": MEAN[::-1], "std": STD[::-1]}, "other order of colours it answers"),
        ({"mean": (0.45, 0.45, 0.45)}, "the description is not what the owner's program does"),
    ],
)
def test_the_owners_answer_finds_a_wrong_description(
    files: Callable[..., Path], tmp_path: Path, wrong: dict[str, Any], said: str
) -> None:
    owner = with_owner(tmp_path, expected(count=4)[3])
    with pytest.raises(ParityError, match=said):
        imported(files(), tmp_path, owner=owner, input=wrong)
    assert not (tmp_path / "x.onnx").exists()
    assert not list(tmp_path.glob(".writing*"))
    # Without it, nothing can tell that these are not the owner's.
    assert imported(files(), tmp_path, owner=None, input=wrong).card.parity


def test_the_mean_of_another_data_set_is_named(files: Callable[..., Path], tmp_path: Path) -> None:
    mean, std = np.array((0.485, 0.456, 0.406)), np.array((0.229, 0.224, 0.225))
    normalised = (golden_frames(4)[3:] / 255 - mean) / std
    clip = torch.from_numpy(normalised.transpose(0, 4, 1, 2, 3)).float()
    owner = with_owner(tmp_path, owners_answer(built(TinyNetwork), clip)[0])
    with pytest.raises(ParityError, match=r"with ImageNet's mean and std in the range 0\.\.1 it"):
        imported(files(), tmp_path, owner=owner)


def test_the_range_of_mean_0_and_std_1_is_told_by_the_owners_answer_alone(
    files: Callable[..., Path], tmp_path: Path
) -> None:
    clip = torch.from_numpy((golden_frames(4)[3:] / 255).transpose(0, 4, 1, 2, 3)).float()
    owner = with_owner(tmp_path, owners_answer(built(TinyNetwork), clip)[0])
    wrong = {"range": "0..255", "mean": [0, 0, 0], "std": [1, 1, 1]}
    imported(files(), tmp_path, input=wrong)
    with pytest.raises(ParityError, match=r"with mean 0 and std 1 in the range 0\.\.1 it answers"):
        imported(files(), tmp_path, owner=owner, input=wrong)


def test_swapped_paths_of_as_many_frames_are_found_by_the_owners_answer(tmp_path: Path) -> None:
    shape = (3, 2, SIDE, SIDE)
    file = write_onnx(built(TwoPaths), tmp_path / "two.onnx", shape, shape)
    clip = owners_input(golden_frames(4)[3:])
    answer = owners_answer(built(TwoPaths), clip[:, :, [0, 4]], clip[:, :, [3, 7]])
    owner = with_owner(tmp_path, answer[0])
    paths = [{"name": "input0", "frames": [0, 4]}, {"name": "input1", "frames": [3, 7]}]
    imported(file, tmp_path, input={"paths": paths}, owner=owner)
    (tmp_path / "x.onnx").unlink()
    paths = [{"name": "input1", "frames": [0, 4]}, {"name": "input0", "frames": [3, 7]}]
    with pytest.raises(ParityError, match=r"with the names of input\.paths swapped it answers"):
        imported(file, tmp_path, input={"paths": paths}, owner=owner)
    assert not (tmp_path / "x.onnx").exists()


def test_probabilities_that_are_nearly_alike_tell_a_wrong_description(tmp_path: Path) -> None:
    """Those of a network that says little: all near 1 / K, and a wrong mean changes little."""

    def faint() -> TinyNetwork:
        network = TinyNetwork(end="softmax")
        with torch.no_grad():
            network.classifier.weight.mul_(2e-3)
            network.classifier.bias.mul_(2e-3)
        return network

    model = built(faint)
    file = write_onnx(model, tmp_path / "net.onnx", CLIP)
    answer = owners_answer(model, owners_input(golden_frames(4)[3:]))[0]
    assert np.ptp(answer) < 0.02 * answer.max()
    owner, gives = with_owner(tmp_path, answer), {"gives": "probabilities"}
    assert imported(file, tmp_path, output=gives, owner=owner).parity[-1].error < 1e-4
    with pytest.raises(ParityError, match="answered otherwise than its owner says"):
        imported(file, tmp_path, output=gives, owner=owner, input={"colour_order": "BGR"})


def test_the_owners_clip_is_that_of_the_description(
    files: Callable[..., Path], tmp_path: Path
) -> None:
    owner = with_owner(tmp_path, expected()[0][:-1])
    with pytest.raises(SpecError, match=r"the owner's logits are float64 \(6,\); floats \(7,\)"):
        imported(files(), tmp_path, owner=owner)
    np.save(tmp_path / "clip.npy", golden_frames()[0][:4])
    with pytest.raises(SpecError, match=r"clip is uint8 \(4, 32, 32, 3\); uint8 \(8, 32"):
        imported(files(), tmp_path, owner=owner)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"labels": ["a", "b"]}, r"gives \(N, 7\), which has no axis for 2 labels"),
        ({"input": {"layout": "NTCHW"}}, r"of shape \(N, 3, 8, 32, 32\); layout NTCHW .*8, 3, 32"),
        ({"input": {"layout": "NVCTHW"}}, r"would be \(N, 1, 3, 8, 32, 32\)"),
        ({"clip": {"num_frames": 16}}, "16 frames of 32 px"),
        ({"output": {"gives": "probabilities"}}, 'no probabilities; write gives = "logits"'),
        ({"output": {"per_frame": True}}, "leave per_frame out"),
        ({"output": {"name": "features"}}, "output.name is 'features'"),
    ],
)
def test_a_description_that_does_not_fit_is_told(
    files: Callable[..., Path], tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(SpecError, match=said):
        imported(files(), tmp_path, **changes)
    assert not (tmp_path / "x.onnx").exists()


def test_one_logit_for_two_labels_is_told(tmp_path: Path) -> None:
    class YesOrNo(TinyNetwork):
        def forward(self, clip: torch.Tensor) -> torch.Tensor:
            return super().forward(clip)[:, :1]

    file = write_onnx(built(YesOrNo), tmp_path / "net.onnx", CLIP)
    with pytest.raises(SpecError, match=r"gives \(N, 1\), one number for 2 labels; a network that"):
        imported(file, tmp_path, labels=["fight", "noFight"])


def test_a_sigmoid_is_found_behind_an_average(tmp_path: Path) -> None:
    class Averaged(TinyNetwork):
        def forward(self, clip: torch.Tensor) -> torch.Tensor:
            return torch.sigmoid(super().forward(clip)).mean(1)

    file = write_onnx(built(lambda: Averaged(end="per frame")), tmp_path / "net.onnx", CLIP)
    with pytest.raises(SpecError, match="ends in a sigmoid"):
        imported(file, tmp_path)


def test_a_softmax_is_not_taken_for_logits(files: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r'ends in a softmax.* write gives = "probabilities"'):
        imported(files(end="softmax"), tmp_path)
    with pytest.raises(SpecError, match=r'add up to 1 .* write gives = "probabilities"'):
        imported(files(end="softmax of positions"), tmp_path)
    with pytest.raises(SpecError, match="more than one row for a clip"):
        imported(files(end="per frame"), tmp_path)


def test_our_own_files_and_others_are_refused(files: Callable[..., Path], tmp_path: Path) -> None:
    result = imported(files(), tmp_path)
    with pytest.raises(ArtifactError, match="carries a model card of stdeploy already"):
        import_onnx(result.path, tmp_path / "clip.toml", tmp_path / "y.onnx")
    with pytest.raises(ArtifactError, match="over the file that it is made from"):
        import_onnx(files(), tmp_path / "clip.toml", files())


def test_the_command_imports_and_says_what_it_did(
    files: Callable[..., Path], tmp_path: Path
) -> None:
    write_toml(tmp_path / "clip.toml")
    network = tmp_path / "net.onnx"
    network.write_bytes(files(legacy=True, batch=1).read_bytes())
    done = run("import", "net.onnx", "--card", "clip.toml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "net.stdeploy.onnx" in done.stdout
    assert "2 batch norms folded in float64" in done.stderr
    assert "compared with itself only" in done.stderr
    shown = run("card", "net.stdeploy.onnx", cwd=tmp_path)
    assert "another project's (tiny): it took NCTHW, RGB in 0..1, and gave logits" in shown.stdout
    assert f"labels    {CLASSES}: class 0" in shown.stdout
    os.mkfifo(tmp_path / "pipe.onnx")
    (tmp_path / "NET.ONNX").write_bytes(b"nothing")
    for arguments, said in (
        (("pipe.onnx",), "is no regular file"),
        (("NET.ONNX", "--card", "clip.toml"), "'NET.ONNX' is no ONNX file"),
        (("net.onnx",), "describe it in a TOML file: --card clip.toml"),
        (
            ("clip.toml", "--labels", "clip.toml"),
            "cannot be read as a checkpoint: it is damaged, or holds",
        ),
        (("nothing.onnx",), "does not exist"),
    ):
        failed = run("import", *arguments, cwd=tmp_path)
        assert failed.returncode == 2
        assert said in failed.stderr
        assert failed.stderr.splitlines()[-1].startswith("stdeploy: ")
        assert len(failed.stderr.splitlines()) <= 2
