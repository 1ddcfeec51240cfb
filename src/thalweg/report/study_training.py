"""Training curves of all runs of a study, one thin line each, coloured by group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from thalweg.report import figures as draw
from thalweg.report.paper_layout import panels
from thalweg.training.trajectory import TrainingHistory

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def training_figure(
    curves: Mapping[str, Sequence[TrainingHistory]], colours: Mapping[str, str], narrow: bool
) -> Figure:
    """Loss and accuracy against the epoch: training solid, test dashed.

    Parameters
    ----------
    curves
        Of each group the histories of its runs.
    colours
        Of each group.
    narrow
        Whether one panel stands below the other.
    """
    from matplotlib.collections import LineCollection
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

    first = next(history for histories in curves.values() for history in histories)
    quantities = ("loss", "accuracy") if np.isfinite(draw.numbers(first.train_accuracy)).any() else ("loss",)
    with draw.house_style():
        figure, grid = panels(1, len(quantities), narrow, height=3.0)
        for axes, quantity in zip(grid[0], quantities, strict=True):
            for group, histories in curves.items():
                for split, dashes in (("train", "solid"), ("test", "dashed")):
                    lines = [
                        np.column_stack(
                            [draw.numbers(h.epochs), draw.numbers(getattr(h, f"{split}_{quantity}"))]
                        )
                        for h in histories
                    ]
                    # Together as dark as a few, so that where many lie is seen.
                    alpha = max(0.15, min(0.8, 3 / len(lines)))
                    axes.add_collection(
                        LineCollection(
                            lines, colors=colours[group], linestyles=dashes, linewidths=1.0, alpha=alpha
                        )
                    )
            axes.autoscale_view()
            if quantity == "loss":
                every = [h for histories in curves.values() for h in histories]
                draw.scale_loss_axis(axes, *(h.train_loss for h in every), *(h.test_loss for h in every))
            axes.set_xlabel("epoch")
            axes.set_ylabel(draw.quantity_label(first, quantity))
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        handles = [Line2D([], [], color=colours[group], label=group) for group in curves]
        handles += [
            Line2D([], [], color=draw.GREY, linestyle="solid", label="training"),
            Line2D([], [], color=draw.GREY, linestyle="dashed", label="test"),
        ]
        grid[0, 0].legend(handles=handles, fontsize=8)
    return figure
