"""The file of `stdeploy watch --sources`, and what is said of a wrong one."""

from pathlib import Path

import pytest

from stdeploy.errors import SpecError
from stdeploy.inference.source_list import read_source_list

GOOD = """
hop_seconds = 2
[[source]]
name = "door"
url = "rtsp://user:secret@door.local/stream?key=1"
hop_seconds = 0.5
reconnect = false
events = ["fight"]
[[source]]
url = 0
[[source]]
url = "clip.mp4"
[events]
anything = [{ label = "fight", on = 0.8 }]
"""


def test_a_list_is_read(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").touch()
    (tmp_path / "sources.toml").write_text(GOOD)
    found = read_source_list(tmp_path / "sources.toml")
    assert found.hop_seconds == 2
    assert [source.shown for source in found.sources] == ["door", "camera 0", "clip.mp4"]
    door, camera, clip = found.sources
    assert (door.hop_seconds, door.opens_again, door.events) == (0.5, False, ["fight"])
    assert (camera.address, camera.hop_seconds, camera.opens_again) == ("0", None, True)
    assert clip.address == str(tmp_path / "clip.mp4")
    assert not clip.opens_again
    assert found.events == {"anything": [{"label": "fight", "on": 0.8}]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names no source; write [[source]] and url"),
        ("source = []", "names no source"),
        ("source = 3", "source = 3"),
        ("[[source", "is no TOML"),
        ("[[source]]\nname = 'a'", "[[source]] 1: url is missing"),
        ("[[source]]\nurl = true", "[[source]] 1: url = True: text is allowed"),
        ("[[source]]\nurl = ''", "[[source]] 1: url = '': a text that is not empty is wanted"),
        ("[[source]]\nurl = 'rtsp://a'\nhop = 1", "[[source]] 1: hop = 1: there is no such field"),
        (
            "[[source]]\nurl = 'rtsp://a'\nhop_seconds = -1",
            "1: hop_seconds = -1: 0 or more",
        ),
        ("[[source]]\nurl = 'rtsp://a'\nhop_seconds = nan", "[[source]] 1: hop_seconds = nan"),
        ("[[source]]\nurl = 'rtsp://a'\nname = 3", "[[source]] 1: name = 3: text is allowed"),
        ("[[source]]\nurl = 'rtsp://a'\nname = \"a\\u001b\"", "[[source]] 1: name 'a\\x1b'"),
        ("[[source]]\nurl = 'gone.mp4'", "[[source]] 1: 'gone.mp4' is no live source"),
        ("[[source]]\nurl = 'file:///etc/passwd'", "is no live source"),
        ("[[source]]\nurl = '-'\nreconnect = true", "a pipe cannot be opened again"),
        ("[[source]]\nurl = 'rtsp://a'\n" * 2, "two sources are named 'rtsp://a'"),
        ("[[source]]\nurl = '-'\n[[source]]\nurl = '-'\nname = 'b'", "only one source can be -"),
        ("hop = 1\n[[source]]\nurl = 'rtsp://a'", "hop = 1: there is no such field; there are"),
        ("events = 1\n[[source]]\nurl = 'rtsp://a'", "events = 1: a table is wanted"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "sources.toml"
    file.write_text(text)
    with pytest.raises(SpecError) as found:
        read_source_list(file)
    assert message in str(found.value)
    assert "sources.toml" in str(found.value)
    if "is no TOML" not in message:
        assert "\n" not in str(found.value)


def test_a_list_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"'.*gone.toml' cannot be read: No such file"):
        read_source_list(tmp_path / "gone.toml")
