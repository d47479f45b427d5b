"""A picture of a pipeline's schedule."""

from pathlib import Path

from ernie5.errors import UserError
from ernie5.planning.layout import Layout
from ernie5.planning.schedule import run

FORWARD, BACKWARD = ("#cfe0f5", "#9dc0ea", "#6a9edb", "#3f7cc4"), ("#d8efd3", "#aedca4", "#7fc571", "#54a845")
NUMBERED = 400  # more boxes than that have no numbers


def draw_timeline(layout: Layout, microbatches: int, backward: float, path: Path) -> int:
    """Draws one row for each pipeline rank: forward blue, backward green, darker for later pieces, white for waiting.

    A forward pass takes 1, a backward one `backward`. Drawn are at most twice as many microbatches as ranks, so that
    the boxes stay legible; their number is returned. UserError: matplotlib is missing.
    """
    try:
        import matplotlib
    except ImportError:
        raise UserError("--timeline needs matplotlib: pip install 'ernie5[train]'") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    pipeline, virtual_stages = layout.pipeline, layout.virtual_stages
    count = min(microbatches, 2 * pipeline)
    spans = run(pipeline, virtual_stages, count, 1.0, backward)
    boxes = pipeline * virtual_stages * count * 2
    figure, axes = pyplot.subplots(figsize=(14, 0.8 + 0.4 * pipeline), layout="constrained")
    for rank, row in enumerate(spans):
        for action, start, end in row:
            shades = FORWARD if action.is_forward else BACKWARD
            shade = shades[min(action.piece, len(shades) - 1)]
            axes.barh(rank, end - start, left=start, height=0.9, color=shade, edgecolor="white", linewidth=0.4)
            if boxes <= NUMBERED:
                axes.text((start + end) / 2, rank, str(action.microbatch), ha="center", va="center", fontsize=6)
    axes.invert_yaxis()
    axes.set(yticks=range(pipeline), xlabel="time of a forward pass through a piece", ylabel="pipeline rank")
    kind = "interleaved, " if virtual_stages > 1 else ""
    axes.set_title(f"{pipeline} ranks x {virtual_stages}, {kind}{count} of {microbatches} microbatches", fontsize=10)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return count
