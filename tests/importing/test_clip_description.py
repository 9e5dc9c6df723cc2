"""The TOML file that describes a network: what is refused of it, and what it says to NumPy."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stdeploy.errors import ArtifactError, SpecError
from stdeploy.importing.clip_description import ClipDescription, inputs_of
from tests.importing.networks import golden_frames, owners_input, write_toml


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"labels": None}, "labels is missing"),
        ({"labels": ["a", "a"]}, "labels 0 and 1 are both 'a'"),
        ({"labels": ["a", " "]}, "label 1 is empty; every class has a name"),
        ({"labels": []}, "0 labels; 2 to 1000000 are allowed"),
        ({"labels": ["fight"]}, "the softmax of one number is 1 for every video"),
        ({"labels": [1, 2]}, "labels = [1, 2]: the name of a text file or a list such as"),
        ({"labels": 7}, "labels = 7: the name of a text file or a list such as"),
        ({"labels": "a\0b"}, "labels='"),
        ({"clip": {"fps": None}}, "clip.fps is missing"),
        ({"clip": {"num_frames": 0}}, "clip.num_frames = 0: 1 or more is allowed"),
        ({"clip": {"crop_px": 48}}, "crop_px 48 is larger than short_side_px 40"),
        ({"clip": {"frames": 8}}, "clip.frames = 8: there is no such field; did you mean 'num_fr"),
        ({"input": {"layout": "CTHW"}}, "NCTHW, NTHWC, NTCHW or NVCTHW is allowed"),
        ({"input": {"layout": "CNTHW"}}, "NCTHW, NTHWC, NTCHW or NVCTHW is allowed"),
        ({"input": {"layout": "NCTHWW"}}, "NCTHW, NTHWC, NTCHW or NVCTHW is allowed"),
        ({"input": {"range": "0-255"}}, "'0..1' or '0..255' is allowed"),
        ({"input": {"colour_order": "GBR"}}, "'RGB' or 'BGR' is allowed"),
        ({"input": {"std": [0.2, 0.2, 0.0]}}, "that is not positive"),
        ({"input": {"mean": [0.4, 0.4]}}, "a list of 3 values is wanted"),
        (
            {"input": {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]}},
            "make -2.118 of black and -2.101 of white in the range 0..1; they look like those of "
            "0..255",
        ),
        (
            {"input": {"range": "0..255"}},
            "mean 0.5 and std 0.2 make -2.5 of black and 1272 of white in the range 0..255; they "
            "look like those of 0..1",
        ),
        ({"input": {"paths": [{"name": "slow"}]}}, "either every = 4 or frames = [0, 4, ...]"),
        ({"input": {"paths": [{"name": "slow", "frames": []}]}}, "a list of 1 or more values"),
        ({"input": {"paths": [{"name": "", "every": 4}]}}, "a text that is not empty is wanted"),
        (
            {"input": {"paths": [{"name": "slow", "frames": [0, 8]}]}},
            "'slow' takes frame 8; a clip has frames 0 to 7",
        ),
        ({"output": {"gives": "scores"}}, "'logits' or 'probabilities' is allowed"),
        ({"owner": {"clip": "a.npy"}}, "owner.logits is missing"),
        ({"owner": {"clip": "a.npy", "logits": "b.npy"}}, "does not exist; name an array"),
        ({"owner": {"clip": "clip.toml", "logits": "b"}}, "is no .npy file; save it with num"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    path = write_toml(tmp_path / "clip.toml", **changes)
    with pytest.raises(SpecError, match=re.escape(said)) as error:
        ClipDescription.read(path)
    assert str(path) in str(error.value)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        ((104.0, 117.0, 123.0), (1.0, 1.0, 1.0)),
        ((0.0,) * 3, (1.0,) * 3),
        ((0.0,) * 3, (255.0,) * 3),
    ],
)
def test_numbers_that_real_networks_have_are_taken(
    tmp_path: Path, mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    changes = {"range": "0..255", "mean": mean, "std": std}
    found = ClipDescription.read(write_toml(tmp_path / "clip.toml", input=changes))
    assert np.allclose(np.array(found.clip.std) * 255, std)


@pytest.mark.parametrize(
    "text",
    ["a\nb\nc", "a\nb\nc\n", "a\nb\nc\n\n \n", "a\r\nb\r\nc\r\n", "\ufeffa\nb\nc\n", "a \n\tb\nc"],
    ids=[
        "no end",
        "plain",
        "blank lines at its end",
        "of Windows",
        "with a byte order mark",
        "spaces",
    ],
)
def test_labels_come_from_a_file_beside_the_description(tmp_path: Path, text: str) -> None:
    (tmp_path / "names.txt").write_bytes(text.encode())
    found = ClipDescription.read(write_toml(tmp_path / "clip.toml", labels="names.txt"))
    assert found.labels == ("a", "b", "c")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a\n\nc\n", "label 1 is empty; every class has a name"),
        (b"a\nb\na\n", "labels 0 and 2 are both 'a'"),
        ("a\nb\n".encode("utf-16"), "it is no text in UTF-8"),
        (None, "No such file or directory; name a text file"),
    ],
)
def test_a_file_of_labels_that_cannot_be_used_is_told(
    tmp_path: Path, content: bytes | None, said: str
) -> None:
    if content is not None:
        (tmp_path / "names.txt").write_bytes(content)
    with pytest.raises(SpecError, match=said) as error:
        ClipDescription.read(write_toml(tmp_path / "clip.toml", labels="names.txt"))
    assert len(str(error.value).splitlines()) == 1


def test_an_array_that_holds_objects_is_not_opened(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], dtype=object))
    np.savez(tmp_path / "a.npz", np.zeros(3))
    for name in ("a.npy", "a.npz"):
        owner = {"clip": name, "logits": name}
        with pytest.raises(SpecError, match=r"the owner's clip: .* is no \.npy file"):
            ClipDescription.read(write_toml(tmp_path / "clip.toml", owner=owner))


def test_no_toml_is_told(tmp_path: Path) -> None:
    (tmp_path / "clip.toml").write_text("labels = [")
    with pytest.raises(SpecError, match="is no TOML"):
        ClipDescription.read(tmp_path / "clip.toml")
    with pytest.raises(ArtifactError, match="does not exist; name a TOML file"):
        ClipDescription.read(tmp_path / "none.toml")


def test_numpy_gives_what_the_owners_program_gives(tmp_path: Path) -> None:
    found = ClipDescription.read(write_toml(tmp_path / "clip.toml"))
    frames = golden_frames(2)
    (clip,) = inputs_of(found, frames)
    assert clip.shape == (2, 3, 8, 32, 32)
    assert np.abs(clip - owners_input(frames).numpy()).max() < 1e-6
    layout = {"layout": "NVTHWC"}
    turned = ClipDescription.read(write_toml(tmp_path / "clip.toml", input=layout))
    (views,) = inputs_of(turned, frames)
    assert views.shape == (2, 1, 8, 32, 32, 3)
    assert np.array_equal(views[:, 0].transpose(0, 4, 1, 2, 3), clip)
