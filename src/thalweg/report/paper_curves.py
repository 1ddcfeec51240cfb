"""The curves of the paper's Figures 1 to 4: training, slices around minima, the line between two of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from thalweg.objective.batch_norm import MODES
from thalweg.report import figures as draw
from thalweg.report.paper_layout import MODE_NAMES, MODEL_NAMES, PaperFigure, panels
from thalweg.study.paper_evidence import MODELS, PLAIN_MODEL, PaperRecords, mode_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from thalweg.study.store import Record


def _share_height(axes: Iterable[Axes]) -> None:
    """Give panels that are to be compared one common vertical range."""
    axes = list(axes)
    limits = [ax.get_ylim() for ax in axes]
    for ax in axes:
        ax.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))


def _history_words(history: Any) -> str:
    last = int(history.epochs[-1])
    return (
        f"over {last} epoch{'s' if last != 1 else ''} the training loss goes from "
        f"{float(history.train_loss[0]):.3g} to {float(history.train_loss[-1]):.3g} and the test loss to "
        f"{float(history.test_loss[-1]):.3g}; the final accuracy is "
        f"{float(history.train_accuracy[-1]):.3f} in training and {float(history.test_accuracy[-1]):.3f} "
        "on test data"
    )


def training_figure(study: PaperRecords, model: str, name: str, title: str) -> PaperFigure:
    record = study.find("train", model)
    if record is None:
        return PaperFigure(name, title, "Not measured in this run.", "")
    history: Any = record.measurement

    def picture(narrow: bool) -> Figure:
        with draw.house_style():
            figure, axes = panels(1, 2, narrow, height=2.7)
            for ax, quantity in zip(axes.flat, ("loss", "accuracy"), strict=True):
                draw.draw_history(ax, history, quantity, draw.MODEL_COLOURS[model])
                ax.set_title(f"{model}: {quantity}")
            draw.scale_loss_axis(axes[0, 0], history.train_loss, history.test_loss)
            axes[0, 0].legend()
            axes[0, 1].legend(loc="lower right")
            return figure

    caption = (
        f"{MODEL_NAMES[model]}. {_as_evaluated(record, model)} Epoch 0 is the network at initialisation."
    )
    return PaperFigure(name, title, caption, f"{MODEL_NAMES[model]}: {_history_words(history)}.", picture)


def _as_evaluated(record: Record, model: str) -> str:
    if model == PLAIN_MODEL:
        return "No batch norm. Each point is the network after that epoch, on all its training and test data."
    return (
        f"Batch norm: {MODE_NAMES[mode_of(record)]}. Each point is the network after that epoch, held "
        "still, on all its training and test examples."
    )


def comparison_figure(study: PaperRecords) -> PaperFigure:
    histories: dict[str, Any] = {m: r.measurement for m in MODELS if (r := study.find("train", m))}
    title = "The three networks together"
    if len(histories) < 2:
        return PaperFigure("training_all", title, "", "")
    # What chance gives at initialisation would dwarf what sets the networks apart; two points are no curve.
    skips_start = all(len(h.epochs) > 2 for h in histories.values())

    def picture(narrow: bool) -> Figure:
        with draw.house_style():
            figure, axes = panels(1, 2, narrow, height=2.9)
            for ax, quantity in zip(axes.flat, ("loss", "accuracy"), strict=True):
                for model, history in histories.items():
                    draw.draw_history(ax, history, quantity, draw.MODEL_COLOURS[model], model)
                ax.set_title(quantity.capitalize())
            draw.scale_loss_axis(
                axes[0, 0], *(x for h in histories.values() for x in (h.train_loss, h.test_loss))
            )
            if skips_start:
                late = [
                    float(a)
                    for h in histories.values()
                    for a in (*h.train_accuracy[1:], *h.test_accuracy[1:])
                ]
                axes[0, 1].set_ylim(bottom=max(0.0, min(late) - 0.02), top=min(1.0, max(late) + 0.02))
                axes[0, 1].set_xlim(left=0.8)
            axes[0, 0].legend(ncols=len(histories) if not narrow else 1)
            return figure

    ends = "; ".join(f"{m}: {_history_words(h)}" for m, h in histories.items())
    caption = (
        "Solid: training; dashed: test. Batch norm: as the networks predict, with running statistics."
        + (" The accuracy axis leaves out epoch 0." if skips_start else "")
    )
    return PaperFigure("training_all", title, caption, f"All curves on common axes. {ends}.", picture)


def slices_figure(study: PaperRecords) -> PaperFigure:
    name, title = "fig3_slice", "Figure 3. One-dimensional slices around A1 and B"
    found: dict[str, dict[str, Any]] = {}
    for mode in MODES:
        row = {m: study.find("line_slice", m, mode, normalisation="filter") for m in MODELS}
        if any(r and m != PLAIN_MODEL for m, r in row.items()):
            found[mode] = {m: r.measurement for m, r in row.items() if r}
    if not found:
        return PaperFigure(name, title, "Not measured in this run.", "")
    first = next(iter(next(iter(found.values())).values()))

    def picture(narrow: bool) -> Figure:
        with draw.house_style():
            figure, axes = panels(2, len(found), narrow, height=2.5)
            for row, quantity in enumerate(("loss", "accuracy")):
                for column, (mode, slices) in enumerate(found.items()):
                    ax = axes[row, column]
                    for model, result in slices.items():
                        draw.draw_slice(ax, result, quantity, draw.MODEL_COLOURS[model], model)
                    ax.set_title(MODE_NAMES[mode] if not narrow else f"{MODE_NAMES[mode]}: {quantity}")
                    if narrow or row == 1:
                        ax.set_xlabel("step α along the direction")
                    if not narrow and column:
                        ax.set_ylabel("")
                    if quantity == "loss":
                        every = [x.losses_by_direction for s in found.values() for x in s.values()]
                        draw.scale_loss_axis(ax, *every)
                _share_height(axes[row])
            axes[0, 0].legend()
            return figure

    held = {"bias_and_norm": "; biases and batch-norm parameters stay put"}.get(first.ignore, "")
    caption = (
        "One panel a batch-norm mode; B has none and is the same in each. Lines: mean over "
        f"{first.num_directions} random directions; pale band: lowest to highest "
        f"direction.{_band_words(found)} Directions are Gaussian, each filter scaled to the norm of the "
        f"network’s own: α = 1 moves each by its own length{held}."
    )
    words = []
    for mode, slices in found.items():
        ends = ", ".join(
            f"{m} from {float(s.value):.3g} at the centre to {float(s.losses[0]):.3g} and "
            f"{float(s.losses[-1]):.3g}"
            for m, s in slices.items()
        )
        words.append(f"{MODE_NAMES[mode]}: {ends}")
    span = f"{float(first.alphas[0]):g} to {float(first.alphas[-1]):g}"
    alt = f"Loss and accuracy against the step, {span}. Mean loss with {'; '.join(words)}."
    return PaperFigure(name, title, caption, alt, picture)


def _band_words(found: Mapping[str, Mapping[str, Any]]) -> str:
    """What the dark bands are, if there are any."""
    results = [result for row in found.values() for result in row.values()]
    if not any(float(draw.numbers(result.loss_standard_errors).max()) > 0 for result in results):
        return ""
    return " Dark band: two standard errors from using a sample of examples."


def paths_figure(study: PaperRecords) -> PaperFigure:
    name, title = "fig4_path", "Figure 4. The straight line from A1 to A2"
    found: dict[str, dict[str, Any]] = {}
    for mode in MODES:
        row = {s: study.find("linear_path", "A1-A2", mode, split=s) for s in ("train", "test")}
        if any(row.values()):
            found[mode] = {s: r.measurement for s, r in row.items() if r}
    if not found:
        return PaperFigure(name, title, "Not measured in this run.", "")
    looks = {"train": ("training", draw.BLUE, "-"), "test": ("test", draw.VERMILLION, "--")}

    def picture(narrow: bool) -> Figure:
        with draw.house_style():
            figure, axes = panels(2, len(found), narrow, height=2.6)
            for row, quantity in enumerate(("loss", "accuracy")):
                for column, (mode, paths) in enumerate(found.items()):
                    ax = axes[row, column]
                    for i, (split, path) in enumerate(paths.items()):
                        words, colour, dashes = looks[split]
                        if quantity == "loss":
                            words += f" (barrier {float(path.barrier):.3g})"
                        draw.draw_path(ax, path, quantity, colour, words, dashes=dashes, barrier=i == 0)
                    ax.set_title(MODE_NAMES[mode] if not narrow else f"{MODE_NAMES[mode]}: {quantity}")
                    ax.set_xticks([0, 0.25, 0.5, 0.75, 1], ["A1", "", "½", "", "A2"])
                    if not narrow and row == 0:
                        ax.set_xlabel("")
                    if not narrow and column:
                        ax.set_ylabel("")
                _share_height(axes[row])
            for ax in axes[0]:
                ax.set_ylim(bottom=0, top=1.22 * ax.get_ylim()[1])
                ax.legend(loc="upper left")
            return figure

    caption = (
        "One panel a batch-norm mode. The arrow marks the barrier on the first curve: the maximum over "
        f"the path of the loss minus the chord (dotted) between the ends.{_band_words(found)} Running "
        "statistics are interpolated with the parameters; recalibrated ones are computed anew at each "
        "point."
    )
    words = [
        f"{MODE_NAMES[mode]}: barrier "
        + " and ".join(f"{float(p.barrier):.3g} on {looks[s][0]} data" for s, p in paths.items())
        for mode, paths in found.items()
    ]
    return PaperFigure(name, title, caption, f"Loss and accuracy from A1 to A2. {'; '.join(words)}.", picture)
