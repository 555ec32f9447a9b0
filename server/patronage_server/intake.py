"""The verdict on one revealed adapter: does it have the declared format, a bearable norm, and is it new?

Copies are found on dW = (alpha / rank) B A, because a change of basis in the factors hides a copy from any
comparison of the factors themselves. The earlier commitment keeps the credit, so adapters are judged in the
order in which they were committed.
"""

from collections.abc import Mapping

from patronage_protocol.adapters import Tensors, cosine, decode, norm
from patronage_protocol.entries import Judged, Match
from patronage_protocol.errors import FormatError
from patronage_protocol.manifest import IntakeTerms, LoraTerms

__all__ = ["judge"]


def judge(
    owner: str,
    data: bytes,
    *,
    lora: LoraTerms,
    terms: IntakeTerms,
    admitted: Mapping[str, Tensors],
    time: int,
) -> tuple[Judged, Tensors | None]:
    """Judge the bytes that an owner revealed.

    Args:
        owner: whose adapter it is.
        data: its bytes; that they open the commitment was checked before.
        lora: the adapter format of the round.
        terms: the intake terms of the round.
        admitted: adapters admitted so far, committed earlier than this one.
        time: for the entry.

    Returns:
        The entry with the verdict, and the adapter if it is admitted.
    """
    try:
        tensors = decode(data, lora, max_bytes=terms.max_bytes)
    except FormatError as error:
        return _verdict(owner, time, reason=str(error)), None
    size = norm(tensors, lora)
    if size > terms.max_norm:
        reason = (
            f"expected a norm of dW of at most {terms.max_norm:g}, got {size:g}; train with a smaller step"
        )
        return _verdict(owner, time, reason=reason, size=size), None
    nearest = _nearest(tensors, lora, admitted)
    if nearest is not None and nearest.cosine >= terms.copy_cosine:
        reason = (
            f"expected an adapter unlike those committed earlier (cosine below {terms.copy_cosine:g}), "
            f"got cosine {nearest.cosine:.4f} with {nearest.owner}; the earlier commitment keeps the credit"
        )
        return _verdict(owner, time, reason=reason, size=size, nearest=nearest), None
    return _verdict(owner, time, size=size, nearest=nearest), tensors


def _nearest(tensors: Tensors, lora: LoraTerms, admitted: Mapping[str, Tensors]) -> Match | None:
    matches = [
        Match(owner=other, cosine=min(1.0, cosine(tensors, adapter, lora)))
        for other, adapter in admitted.items()
    ]
    return max(matches, key=lambda match: match.cosine, default=None)


def _verdict(
    owner: str, time: int, *, reason: str = "", size: float | None = None, nearest: Match | None = None
) -> Judged:
    return Judged(
        time=time, owner=owner, accepted=not reason, reason=reason[:500], norm=size, nearest=nearest
    )
