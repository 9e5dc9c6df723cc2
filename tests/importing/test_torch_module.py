import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import stdeploy
from stdeploy.artifacts.golden import golden_clip
from stdeploy.artifacts.spec import ClipSpec, ForeignSpec
from stdeploy.backends.base import RuntimeOptions
from stdeploy.backends.loader import open_runtime
from stdeploy.errors import ArtifactError, SpecError

CLIP = ClipSpec(
    num_frames=4,
    short_side_px=16,
    crop_px=16,
    mean=(0.3, 0.4, 0.5),
    std=(0.2, 0.25, 0.3),
)
LABELS = ("a", "b", "c")


class Net(nn.Module):
    """A convolution, a norm with random statistics, and what the arguments ask for."""

    def __init__(self, *, per_frame: bool = False, time_first: bool = False) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.conv, self.norm = nn.Conv3d(3, 6, 3, padding=1, bias=False), nn.BatchNorm3d(6)
        self.last = nn.Linear(6, 3)
        nn.init.normal_(self.norm.running_mean, std=0.2)
        nn.init.uniform_(self.norm.running_var, 0.5, 1.5)
        nn.init.uniform_(self.norm.weight, 0.5, 1.5)
        self.per_frame, self.time_first = per_frame, time_first
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        if self.time_first:
            x = x.transpose(1, 2)
        x = torch.relu(self.norm(self.conv(x))).mean(dim=(3, 4))
        x = x.transpose(1, 2) if self.per_frame else x.mean(dim=2)
        return self.last(x)


def expected(network: nn.Module, frames: np.ndarray, *, bgr: bool = False) -> np.ndarray:
    """What the owner of the module would do, by torch alone."""
    x = torch.from_numpy(frames).float() / 255
    x = (x - torch.tensor(CLIP.mean)) / torch.tensor(CLIP.std)
    x = (x.flip(-1) if bgr else x).permute(3, 0, 1, 2)[None]
    with torch.no_grad():
        return network(x)[0].numpy()


def answer(path: Path, frames: np.ndarray) -> np.ndarray:
    with open_runtime(path, options=RuntimeOptions(backend="onnxruntime", device="cpu")) as runtime:
        return runtime.run(frames[None])[0]


def test_the_artifact_answers_as_the_module(tmp_path: Path) -> None:
    network = Net()
    result = stdeploy.import_network(
        network, tmp_path / "net.onnx", clip=CLIP, labels=LABELS, name="net", licence="MIT"
    )
    frames = golden_clip(7, CLIP.frames_shape)
    np.testing.assert_allclose(answer(result.path, frames), expected(network, frames), atol=1e-5)
    model = result.card.model
    assert isinstance(model, ForeignSpec)
    assert (model.name, model.compared_with) == ("net", "its module")
    assert any("the module's clip" in row.check for row in result.parity)
    assert list(tmp_path.iterdir()) == [result.path]
    # It cannot tell a wrong mean: its clip was normalised as the arguments say.
    assert result.card.lineage.origin == "net; compared with its module's answer"


def test_channels_may_be_the_other_way_round(tmp_path: Path) -> None:
    network = Net()
    result = stdeploy.import_network(
        network, tmp_path / "net.onnx", clip=CLIP, labels=LABELS, colour_order="BGR"
    )
    frames = golden_clip(7, CLIP.frames_shape)
    np.testing.assert_allclose(
        answer(result.path, frames), expected(network, frames, bgr=True), atol=1e-5
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what torch.compile imports
@pytest.mark.parametrize("wrapped", [nn.DataParallel, torch.compile])
def test_wrappers_are_taken_off(tmp_path: Path, wrapped: type[nn.Module]) -> None:
    network = Net()
    result = stdeploy.import_network(
        wrapped(network).eval(), tmp_path / "net.onnx", clip=CLIP, labels=LABELS
    )
    frames = golden_clip(7, CLIP.frames_shape)
    np.testing.assert_allclose(answer(result.path, frames), expected(network, frames), atol=1e-5)


def test_rows_of_frames_are_averaged_and_time_may_come_first(tmp_path: Path) -> None:
    network = Net(per_frame=True, time_first=True)
    result = stdeploy.import_network(
        network, tmp_path / "n.onnx", clip=CLIP, labels=LABELS, layout="NTCHW", per_frame=True
    )
    frames = golden_clip(7, CLIP.frames_shape)
    np.testing.assert_allclose(answer(result.path, frames), expected(Net(), frames), atol=1e-5)


def test_rows_may_stand_behind_the_classes(tmp_path: Path) -> None:
    """(N, K, T), as I3Ds give them, and (N, K, 1, 1, 1)."""

    class Turned(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).transpose(1, 2)

    class Places(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)[:, :, None, None, None]

    frames = golden_clip(7, CLIP.frames_shape)
    wanted = expected(Net(), frames)
    for network, per_frame in ((Turned(per_frame=True), True), (Places(), False)):
        result = stdeploy.import_network(
            network, tmp_path / "n.onnx", clip=CLIP, labels=LABELS, per_frame=per_frame
        )
        np.testing.assert_allclose(answer(result.path, frames), wanted, atol=1e-5)


def test_what_cannot_be_exported_is_told_without_advice(tmp_path: Path) -> None:
    class Branching(Net):
        def forward(self, x: Tensor) -> Tensor:
            logits = super().forward(x)
            return logits if logits.sum() > 0 else -logits

    with pytest.raises(ArtifactError, match="cannot export the module: Could not guard") as caught:
        stdeploy.import_network(Branching(), tmp_path / "n.onnx", clip=CLIP, labels=LABELS)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"labels": "abc"}, "labels = 'abc': a list of names is wanted"),
        ({"clip": {"num_frames": 4}}, "clip is wanted as ClipSpec, not as dict"),
        ({"module": Net}, "module is wanted as Module, not as type"),
    ],
)
def test_arguments_of_another_kind_are_told(
    tmp_path: Path, arguments: dict[str, object], said: str
) -> None:
    given = {"module": Net(), "clip": CLIP, "labels": LABELS} | arguments
    with pytest.raises(SpecError, match=said):
        stdeploy.import_network(output=tmp_path / "n.onnx", **given)


class Two(nn.Module):
    """Gives two things."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Both."""
        return x, x


@pytest.mark.parametrize(
    ("network", "labels", "message"),
    [
        (Net().train(), LABELS, r"training mode.*module\.eval\(\)"),
        (Net().double(), LABELS, r"conv\.weight is torch\.float64; call module\.float\(\)"),
        (Two().eval(), LABELS, r"the module gives tuple; one tensor of logits"),
        (nn.Linear(5, 3).eval(), LABELS, r"does not take \(1, 3, 4, 16, 16\)"),
        (Net(), ("a", "b"), r"(2 labels|\(2,\)|3 classes)"),
    ],
)
def test_what_does_not_fit_is_one_line(
    tmp_path: Path, network: nn.Module, labels: tuple[str, ...], message: str
) -> None:
    with pytest.raises(SpecError) as caught:
        stdeploy.import_network(network, tmp_path / "net.onnx", clip=CLIP, labels=labels)
    assert re.search(message, str(caught.value))
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
