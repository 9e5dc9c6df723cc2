"""How commands of the documentation are tested: what is foreign, made cheap, or varies."""

import dataclasses
import re
import shlex
from typing import Literal

from tests.docs.pages import Command

Class = Literal["run", "parsed", "foreign"]

# Commands of other programs that no test can run, and why.
FOREIGN = {
    r"make [\w-]+": "installs, or runs everything, this test included",
    r"(python3 -m venv \S+ && )?(\S*/)?pip install .+": "changes what is installed here",
    r"source \.venv/bin/activate": "is for the shell of a person",
    r"bash \.ci/run": "runs everything, this test included",
    r"([A-Z]+=\S+ )?docker .+": "needs Docker, and images from a registry",
    r"kubectl .+": "needs a cluster",
    r"openssl .+": "is not on every machine; makes a key for the cluster",
    r"install -D? ?-?m? ?.+": "writes into /etc",
    r"systemctl .+": "needs systemd as the first process",
    r"serve (run|deploy) .+": "starts Ray for good; tests/serve/test_on_ray.py does it",
}
# Programs beside stdeploy that may stand in a command that is only parsed.
BESIDE = {"cat", "ffmpeg", "find"}
# Programs that commands which are run may start.
RUN = {"cat", "curl", "find", "stdeploy"}

# Foreign commands that make something answer on port 8000. A server of ours stands in for it.
STAND_INS = {
    r"docker run .+tritonserver.+": "stdeploy serve",  # speaks the same protocol
    r"kubectl port-forward .+": "stdeploy serve",
}


@dataclasses.dataclass(frozen=True)
class Cheaper:
    """Settings that make a command fast.

    Attributes:
        command: where to add them: behind what this matches.
        settings: these.
        why: what the command costs as it stands, or why it would fail on tiny data.
    """

    command: str
    settings: str
    why: str


_TINY_TRAINING = (
    "--set optimisation.epochs=1 --set optimisation.batch_size=4 --set optimisation.workers=0 "
    "--set clip.num_frames=4 --set clip.short_side_px=36 --set clip.crop_px=32"
)
CHEAPER = (
    Cheaper(
        r"stdeploy train --recipe starter",
        f" {_TINY_TRAINING} --set synthetic.train_videos=20 --set synthetic.validation_videos=10",
        "a minute or two",
    ),
    Cheaper(
        r"stdeploy train --recipe (?:finetune|mine\.toml)",
        f" {_TINY_TRAINING} --set augmentation.short_side_px=[36,40] --set clip.views=1",
        "many minutes",
    ),
    Cheaper(r"stdeploy bench", " --rounds 1 --turn-seconds 0", "a minute or two"),
    Cheaper(
        r"stdeploy export\b.* --precision int8.* --calibrate [\w/-]+",
        "".join(f" --allow {name}=99" for name in ("max_error", "mean_error", "kl_nats"))
        + " --allow top1_changed=1",
        "a network that has seen a dozen pictures hesitates, and fails the gate",
    ),
    Cheaper(r"stdeploy export\b.* --precision fp16", " --allow top1_changed=1", "likewise"),
    Cheaper(r"stdeploy serve", " --threads 1", "a thread for each processor, beside other tests"),
)
# Other words in place of those of a page.
INSTEAD = {r"find /videos": "find videos"}

# What a page shows that small clips and untrained networks cannot give: these words stand for any.
VARIES = {
    "README.md": (
        *("parkour", "throwing axe", "gymnastics tumbling", "cartwheeling"),
        *("catching or throwing frisbee", "arm wrestling", "dunking basketball"),
        *(
            "kinetics400-i3d.onnx at",
            "opening kinetics400-i3d.onnx",
            "network, golden clip │ 64x224x224",
        ),
    ),
    "docs/serving.md": ("openvino on CPU",),  # whichever is faster
    "docs/tutorial.md": (
        *("│ fight │", "│ noFight │", '"label": "fight"'),
        *("nothing is wrong", "(always saying 'fight': 72.2%)"),
    ),
    "docs/video.md": (
        *("arm wrestling", "dunking basketball", "shooting basketball"),
        "juggling soccer ball",
    ),
}


def class_of(command: Command) -> Class:
    """The class that a command falls in.

    Raises:
        AssertionError: it falls in none, or in two.
    """
    foreign = any(re.fullmatch(pattern, _bare(command.text)) for pattern in FOREIGN)
    known = RUN | (BESIDE if command.parsed else set())
    ours = set(programs(command.text)) <= known or runs_module(command.text)
    assert foreign or ours, f"{command}: no rule for one of {programs(command.text)}"
    assert not (foreign and ours), f"{command}: falls in two classes"
    if foreign:
        return "foreign"
    assert command.parsed or not runs_module(command.text), f"{command}: torchrun is only parsed"
    return "parsed" if command.parsed else "run"


def cheaper(text: str) -> str:
    """A command with the settings that make it fast."""
    for one in CHEAPER:
        text = re.sub(f"({one.command})", rf"\1{one.settings}", text)
    for pattern, words in INSTEAD.items():
        text = re.sub(pattern, words, text)
    return text


def runs_module(text: str) -> bool:
    """Whether another program starts ours as a module."""
    return bool(re.match(r"torchrun .*-m stdeploy ", text))


def parts(text: str) -> list[list[str]]:
    """The words of each program that a command starts."""
    lexer = shlex.shlex(_bare(text), posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    found: list[list[str]] = [[]]
    for word in lexer:
        if word in ("|", "&&", ";"):
            found.append([])
        elif word in (">", "<"):
            found[-1].append(word)
        else:
            found[-1].append(word)
    return [words for words in found if words]


def programs(text: str) -> list[str]:
    """The programs that a command starts."""
    return [words[0] for words in parts(text)]


def ours_in(text: str) -> list[list[str]]:
    """Arguments of each stdeploy that a command starts."""
    found = []
    for words in parts(text):
        if words[0] == "stdeploy":
            found.append(words[1:])
        elif runs_module(text):
            found.append(words[words.index("-m") + 2 :])
    return [[word for word in words if word not in (">", "<")] for words in found]


def _bare(text: str) -> str:
    """Without the remark at its end."""
    return re.sub(r"\s+#.*$", "", text)
