"""Anyone's .onnx file to an artifact: read, change, compare, and only then write."""

import dataclasses
from pathlib import Path

import numpy as np
import onnx

from stdeploy.artifacts.card import GoldenClip, Lineage, ModelCard, ParityRow
from stdeploy.artifacts.digest import CARD_KEY, OnnxFile
from stdeploy.artifacts.files import (
    ONNX_SUFFIX,
    StrPath,
    as_path,
    checked_output,
    existing,
    sha256_of,
    whole_file,
)
from stdeploy.artifacts.golden import GOLDEN_SEED
from stdeploy.artifacts.spec import ForeignSpec
from stdeploy.backends.base import RuntimeOptions
from stdeploy.backends.loader import open_backend, open_runtime
from stdeploy.backends.tensorrt_builder import Progress
from stdeploy.errors import ArtifactError
from stdeploy.export.graph_cost import GraphCost
from stdeploy.importing.clip_description import ClipDescription, inputs_of
from stdeploy.importing.comparison import compare, compare_with_owner, golden_clips
from stdeploy.importing.hostile_graphs import read_graph
from stdeploy.importing.onnx_graph import ImportedGraph, import_graph
from stdeploy.importing.original_network import OriginalNetwork, check_kind
from stdeploy.importing.trial_run import try_out
from stdeploy.optional_packages import require

_OPTIONS = RuntimeOptions(backend="onnxruntime", device="cpu")


@dataclasses.dataclass(frozen=True)
class ImportResult:
    """What an import wrote.

    Attributes:
        path: the .onnx file.
        card: the card inside it, with every comparison that it passed.
        cost: of one clip.
        notes: what was done to the graph, in words.
    """

    path: Path
    card: ModelCard
    cost: GraphCost
    notes: tuple[str, ...]

    @property
    def parity(self) -> tuple[ParityRow, ...]:
        """Every comparison, all of them passed."""
        return self.card.parity


def import_onnx(
    original: StrPath,
    card: StrPath | ClipDescription,
    output: StrPath | None = None,
    *,
    progress: Progress = lambda _what, _done, _total: None,
) -> ImportResult:
    """Make an artifact of another project's .onnx file: uint8 frames in, logits out, any batch.

    Its normalisation and layout go into the graph, batch norms are folded, a last softmax is taken
    off, a fixed batch is made free. What comes out has to repeat the answers of the original in
    ONNX Runtime, which NumPy gives the clips as the description says, at batches 1, 2 and 5; and,
    where the description names a clip and its owner's answer to it, that answer.

    Args:
        original: a .onnx file without a card.
        card: a TOML file that describes it, see docs/how-to/bring-your-own-network.md; or what one
            would say.
        output: where to write; None puts NET.stdeploy.onnx beside NET.onnx.
        progress: is told what is done, how much of it and of how much.

    Raises:
        ArtifactError: a file cannot be used: damaged, too large, with operators that are not ONNX's
            own, or with a batch that cannot be made free.
        SpecError: the description does not fit the network.
        ParityError: the answers differ; nothing is written.
        MissingExtraError: ONNX Runtime is not installed.
    """
    original = existing(as_path(original, "a network"), wanted="an .onnx file")
    if original.suffix.lower() != ONNX_SUFFIX:
        raise ArtifactError(f"{str(original)!r}: an {ONNX_SUFFIX} file is wanted")
    path = checked_output(
        original.with_name(f"{original.stem}.stdeploy{ONNX_SUFFIX}")
        if output is None
        else as_path(output, "an output"),
        ONNX_SUFFIX,
        source=original,
    )
    ort = require("onnxruntime", extra="cpu", purpose="comparing an imported network")
    description = card if isinstance(card, ClipDescription) else ClipDescription.read(card)
    progress("reading the graph", 0, 1)
    model = read_graph(original)
    if any(entry.key == CARD_KEY for entry in model.metadata_props):
        raise ArtifactError(
            f"{str(original)!r} carries a model card of stdeploy already; use it as it is"
        )
    graph = import_graph(model, description, source=original.name)
    progress("trying the original", 0, 1)
    _try_out(original, graph, description)
    lineage = Lineage(
        origin=_origin(description),
        licence=description.said.licence,
        parent=original.name,
        parent_sha256=sha256_of(original),
        versions={
            **Lineage().versions,
            "onnx": onnx.__version__,
            "onnxruntime": ort.__version__,
        },
    )
    written = _write_compared(path, model, graph, description, lineage, progress, original)
    return ImportResult(path, written, graph.cost, graph.notes)


def _try_out(original: Path, graph: ImportedGraph, description: ClipDescription) -> None:
    """Run the original in another process, before it is opened in this one."""
    frames = np.zeros((graph.fixed_batch or 1, *description.clip.frames_shape), dtype=np.uint8)
    shapes = [array.shape for array in inputs_of(description, frames)]
    try_out(original, dict(zip(graph.inputs, shapes, strict=True)), source=original.name)


def _write_compared(
    path: Path,
    model: onnx.ModelProto,
    graph: ImportedGraph,
    description: ClipDescription,
    lineage: Lineage,
    progress: Progress,
    source: Path,
) -> ModelCard:
    """Write the file once it has been compared; the card inside it."""
    clips = golden_clips(description)
    with OriginalNetwork(model, graph, source=source.name) as original, whole_file(path) as new:
        progress("asking the original", 0, len(clips))
        answers = original.answers(description, clips)
        check_kind(answers, description, source)
        card = ModelCard(
            model=_spec(description),
            clip=description.clip,
            labels=description.labels,
            golden=GoldenClip(seed=GOLDEN_SEED, logits=tuple(answers[0].tolist())),
            lineage=lineage,
        )
        _save(graph.model, card, new)
        with open_backend(new, card, _OPTIONS) as runtime:
            rows = compare(runtime, answers, clips, description, progress)
            if description.owner is not None:
                owner = description.owner
                rows += (compare_with_owner(runtime, original, description, owner),)
            logits = answers[0]
            if description.said.output.gives == "probabilities":
                # Their softmax was compared; the original does not give them.
                logits = runtime.run(clips[:1])[0].astype(np.float64)
        golden = GoldenClip(seed=GOLDEN_SEED, logits=tuple(logits.tolist()))
        card = card.model_copy(update={"parity": rows, "golden": golden})
        _save(graph.model, card, new)
        open_runtime(new, options=_OPTIONS).close()
    return card


def _spec(description: ClipDescription) -> ForeignSpec:
    said = description.said
    return ForeignSpec(
        name=said.name,
        num_classes=len(description.labels),
        layout=said.input.layout,
        pixel_range=said.input.range,
        colour_order=said.input.colour_order,
        output=said.output.gives,
        per_frame=said.output.per_frame,
        compared_with="itself" if description.owner is None else description.answered_by,
    )


def _origin(description: ClipDescription) -> str:
    said = description.said.origin or description.said.name or "another project"
    other = "itself only" if description.owner is None else f"{description.answered_by}'s answer"
    return f"{said}; compared with {other}"


def _save(graph: onnx.ModelProto, card: ModelCard, path: Path) -> None:
    """Write a graph with a card and the digest of both."""
    file = OnnxFile.of(memoryview(graph.SerializeToString()))
    file.with_card(card.to_json()).write(path)
