import base64
import dataclasses
import re
from html.parser import HTMLParser
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest

from stdeploy.analysis.filters import analyse
from stdeploy.analysis.html_report import write_report
from stdeploy.analysis.length_advice import RULES
from stdeploy.analysis.plots import draw_filters, draw_receptive_fields
from stdeploy.analysis.receptive_field import ReceptiveField
from stdeploy.artifacts.card import Lineage
from stdeploy.errors import ArtifactError
from stdeploy.export.flops import count_flops
from stdeploy.export.onnx import export_onnx
from stdeploy.fusion import fuse_checkpoint
from stdeploy.models.checkpoint import save_checkpoint
from stdeploy.plotting.style import BLUE, GREEN, ORANGE
from tests.helpers.models import card_of, tiny_model
from tests.serve.test_page import driver, opened  # noqa: F401 - a fixture


class Page(HTMLParser):
    """The text, the pictures and the addresses of a page; and whether its tags are closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.addresses: list[str] = []
        self.identities: list[str] = []
        self.open: list[str] = []
        self._goes_on = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._goes_on = tag == "wbr"
        if tag not in ("meta", "img", "wbr"):
            self.open.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        self.identities += [value or "" for name, value in attrs if name == "id"]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._goes_on:
            self.words[-1] += data
        elif "style" not in self.open:
            self.words.append(data)
        self._goes_on = False

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    model = tiny_model(branches="multi", temporal_lengths=(1, 3, 3, 3, 5))
    card = card_of(model).model_copy(
        update={
            "labels": ("<b>one</b>", "two", "three", "four", "five"),
            "metrics": {"validation_top1": 0.875, "validation_top5": 1.0},
            "lineage": Lineage(frozen=("conv1", "conv2")),
        }
    )
    save_checkpoint(folder / "net.pt", model, card)
    fuse_checkpoint(folder / "net.pt")
    export_onnx(folder / "net.fused.safetensors")
    return folder


@pytest.fixture(scope="module")
def page(folder: Path) -> Page:
    done: list[float] = []
    write_report(
        [folder / "net.pt", folder / "net.fused.safetensors", folder / "net.onnx"],
        folder / "report.html",
        clips=2,
        progress=lambda part, whole: done.append(part / whole),
    )
    assert done == sorted(done)
    assert done[-1] == 1.0
    return Page((folder / "report.html").read_text())


def test_page_needs_nothing_beside_it(page: Page) -> None:
    assert not page.open
    assert page.addresses
    assert all(address.startswith("data:image/png;base64,") for address in page.addresses)


def test_page_has_every_artifact_and_what_is_known_of_it(page: Page) -> None:
    for name in ("net.pt", "net.fused.safetensors", "net.onnx"):
        assert name in page.text
    assert page.text.count("87.5 % top-1 on one clip of each validation video") == 3
    assert "top5" not in page.text  # of five classes it says nothing
    assert re.search(r"Temporal lengths that its filters ask for.* \d-\d-\d-\d-\d", page.text)
    assert "conv5, 5 frames, advised" in page.text
    assert page.text.count("Cost of a clip") == 3
    assert page.text.count("the reference: fused and exported files are compared with it") == 1
    assert re.search(r"\d+ checks, the nearest to its limit \d\.\de-\d\d of 1e-", page.text)


def test_accuracy_says_what_it_was_measured_on_and_what_measures_the_final_one(page: Page) -> None:
    assert page.text.count("accuracy in training 87.5 % top-1 on one clip of each validation") == 1
    assert "at one view of each validation video, the clip in its middle" in page.text
    assert "not the final figure: stdeploy evaluate FILE --data FOLDER measures that" in page.text


def test_views_that_evaluate_averages_stand_beside_the_accuracy(tmp_path: Path) -> None:
    model = tiny_model()
    card = card_of(model)
    clip = card.clip.model_copy(update={"views": 7})
    metrics = {"validation_top1": 0.5}
    card = card.model_copy(update={"clip": clip, "metrics": metrics})
    save_checkpoint(tmp_path / "net.pt", model, card)
    write_report([tmp_path / "net.pt"], tmp_path / "report.html", clips=1)
    text = Page((tmp_path / "report.html").read_text()).text
    assert "validation video ( stdeploy evaluate averages 7 views)" in text
    assert "What it sees" in text
    assert "frozen" not in text


def test_advice_stands_with_its_rule_and_what_frozen_stages_make_of_it(page: Page) -> None:
    for rule in RULES:
        assert page.text.count(rule) == 3, rule
    frozen = "conv1, conv2 were frozen in training, and still as in the network that it started"
    assert page.text.count(frozen) == 3  # fused and exported files know it too


def test_terms_of_the_page_are_explained_on_it(page: Page) -> None:
    terms = {"single-branch", "multi-branch", "eta", "fused", "temporal lengths", "GMACs", "parity"}
    terms |= {"top-1", "Numbers above a disc"}
    for term in terms:
        assert f" {term} :" in page.text, term
    for term in ("sd , the standard deviation, says", "1st differential (square", "peak that of"):
        assert term in page.text, term


def test_figures_of_cost_say_what_they_count(folder: Path, page: Page) -> None:
    spec = tiny_model(branches="multi", temporal_lengths=(1, 3, 3, 3, 5)).spec
    cost = count_flops(spec, num_frames=8, side_px=32)
    convolutions, whole = f"{cost.macs / 1e9:.2f}", f"{cost.total / 1e9:.3f}"
    assert f"{convolutions} GMACs of convolutions" in page.text
    assert f"all {whole} " in page.text
    assert f"those of the convolutions alone are {convolutions}." in page.text


def test_page_says_what_is_left_out_and_why(page: Page) -> None:
    (reason,) = re.findall(r"Left out: ([^.]*\.onnx[^;]*)", page.text)
    assert "holds no weights for torch" in reason


def test_page_has_the_papers_projection_unless_another_is_named(tmp_path: Path) -> None:
    model = tiny_model(temporal_lengths=(1, 1, 1, 1, 3), branches="single")
    save_checkpoint(tmp_path / "net.pt", model, card_of(model))
    pictures = []
    for projection in ("orthographic", "lambert"):
        path = tmp_path / f"{projection}.html"
        write_report([tmp_path / "net.pt"], path, clips=1, projection=projection)
        page = Page(path.read_text())
        assert ("Lambert's projection, which keeps areas" in page.text) == (projection == "lambert")
        pictures.append(page.addresses)
    default = tmp_path / "default.html"
    write_report([tmp_path / "net.pt"], default, clips=1)
    assert Page(default.read_text()).addresses == pictures[0]
    assert pictures[0] != pictures[1]


def test_discs_stand_four_in_a_row_at_most(tmp_path: Path) -> None:
    weight = np.random.default_rng(0).normal(size=(4, 2, 3, 1, 1)).astype(np.float32)
    heights = []
    for number in (4, 5):
        layers = [analyse(f"conv4.{n}.conv2", "conv4", weight) for n in range(number)]
        draw_filters(layers, tmp_path / "a.svg")
        drawing = (tmp_path / "a.svg").read_text()
        width, height = map(float, re.findall(r'(?:width|height)="(\S+)pt"', drawing)[:2])
        assert width == pytest.approx(4 * 1.55 * 72)
        assert drawing.count("<!-- conv4.") == number
        heights.append(height)
    assert heights[1] > 1.5 * heights[0]


def _field() -> ReceptiveField:
    density = np.ones((9, 4, 4)) * np.hanning(11)[1:-1, None, None]
    return ReceptiveField(density / density.sum(), 1, 0.1, theoretical=(20, 20, 20))


def test_curves_that_coincide_are_all_seen(tmp_path: Path) -> None:
    names = ("a.pt", "a.fused.safetensors", "b.pt")
    draw_receptive_fields({name: _field() for name in names}, tmp_path / "a.png")
    pixels = cv2.imread(str(tmp_path / "a.png"))[:, :, ::-1]
    pixels = pixels[: int(0.85 * len(pixels))]  # without the legend
    for colour in (BLUE, ORANGE, GREEN):
        wanted = [int(colour[place : place + 2], 16) for place in (1, 3, 5)]
        assert np.count_nonzero((pixels == wanted).all(axis=2)) > 200, colour


def test_the_field_of_a_causal_network_ends_at_its_unit(tmp_path: Path) -> None:
    field = dataclasses.replace(_field(), theoretical=(5, 20, 20), causal=True)
    draw_receptive_fields({"a.pt": field}, tmp_path / "a.svg")
    drawing = (tmp_path / "a.svg").read_text()
    assert "could see 5 frames back" in drawing
    assert "frame of the clip, from that of the unit (dotted: could see)" in drawing


def test_long_names_break_where_files_have_joints(tmp_path: Path) -> None:
    name = "surveillance-fights-again-finetuned.fused.safetensors"
    draw_receptive_fields({name: _field(), "b.pt": _field()}, tmp_path / "a.svg")
    drawing = (tmp_path / "a.svg").read_text()
    for line in ("surveillance-fights-again-", "finetuned.fused", ".safetensors", "b.pt"):
        assert f"<!-- {line} -->" in drawing
    assert f"<!-- {name}: -->" in drawing  # in the legend, with its figures below


def test_labels_are_text_not_tags(page: Page) -> None:
    assert "<b>one</b>" in page.text


def test_headings_have_names_of_their_own(page: Page) -> None:
    assert len(set(page.identities)) == len(page.identities) > 10


@pytest.mark.usefixtures("page")
def test_a_shade_shows_on_a_phone_where_there_is_more(
    driver: httpx.Client,  # noqa: F811
    folder: Path,
) -> None:
    phone = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    with opened(driver, (folder / "report.html").as_uri()) as browser:
        order = "Emulation.setDeviceMetricsOverride"
        browser.ask("POST", "/goog/cdp/execute", cmd=order, params=phone)

        def edges(scroll: int) -> tuple[int, int]:
            """Brightness at the left and the right of the first table, above its words."""
            left, right, top = browser.run(
                f"const it = document.querySelector('.wide'); it.scrollLeft = {scroll};"
                "it.scrollIntoView(); const at = it.getBoundingClientRect();"
                "return [at.left, at.right, at.top]"
            )
            png = np.frombuffer(base64.b64decode(browser.ask("GET", "/screenshot")), np.uint8)
            row = cv2.imdecode(png, cv2.IMREAD_GRAYSCALE)[round(top) + 3]
            return int(row[round(left) + 1]), int(row[round(right) - 2])

        assert browser.run("return document.documentElement.scrollWidth") == 390
        first, last = edges(0), edges(10_000)
        assert first[0] == last[1] == 255
        assert max(first[1], last[0]) < 220


def test_a_file_that_is_no_artifact_leaves_no_page(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(b"nothing")
    with pytest.raises(ArtifactError, match=r"a\.pt"):
        write_report([folder / "net.pt", tmp_path / "a.pt"], tmp_path / "r.html", clips=1)
    assert not (tmp_path / "r.html").exists()
