"""The objective that stands in for a recalibrated one where single batches are what there is: in training."""

from __future__ import annotations

from thalweg.objective.objective import Objective


def with_batch_statistics(objective: Objective) -> Objective:
    """The same function, but that batch norm takes each batch's own statistics, if it recalibrates at all.

    A batch's statistics estimate those that ``"recalibrated"`` mode computes over all the calibration data,
    and they are differentiated through. (The derivatives of that mode hold them constant, and would not see
    that scaling a layer before batch norm changes nothing.) Any other objective comes back as it is.
    """
    if not objective._recalibrates:
        return objective
    network = objective._network.in_batch_mode()
    return objective._variant(
        _network=network,
        batch_norm="batch",
        buffers={k: b for k, b in objective.buffers.items() if k not in network.computed_buffers},
        micro_batch=objective.batch_size,
        passes_open=False,
    )
