# mypy: allow-untyped-calls
"""How far a model's predictions are from a completion: the distance that DELIFT measures in-context help by.

    d(x, y) = sqrt( mean_t (1 - pi(y_t | x, y_<t))^2 ),   in [0, 1]

Source: Agarwal et al. 2025, arXiv 2411.04425, section 3 (Euclidean distance to the ground truth, normalised
by length). A long completion weighs as much as a short one, which a sum of log-probabilities does not give.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from patronage_protocol.policy.scoring import (
    check_finite,
    enough_memory,
    prediction_logits,
    scoring_batches,
)
from patronage_protocol.policy.tokenising import TokenizedPair

__all__ = ["completion_distances"]


def completion_distances(
    model: PreTrainedModel,
    pairs: Sequence[TokenizedPair],
    *,
    batch_tokens: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.float64]:
    """The distance of the chosen and of the rejected completion of M pairs, shape (M, 2), in their order.

    Raises:
        UnavailableError: the device has not enough memory for a batch.
        UsageError: a prediction is not finite.
    """
    batches = scoring_batches(model, pairs, batch_tokens)
    distances = np.zeros(2 * len(pairs))
    done, total = 0, sum(len(batch.input_ids) for batch in batches)
    for batch in batches:
        with torch.inference_mode(), enough_memory(model.device, batch):
            logits = prediction_logits(model, batch).float()
            targets = batch.targets.to(logits.device)
            missing = 1.0 - (logits.gather(1, targets[:, None])[:, 0] - logits.logsumexp(1)).double().exp()
            parts = missing.square().split(batch.lengths)
            distances[list(batch.slots)] = torch.stack([part.mean() for part in parts]).sqrt().cpu().numpy()
        done += len(batch.input_ids)
        if progress is not None:
            progress(done, total)
    check_finite(distances)
    return distances.reshape(-1, 2)
