# mypy: allow-untyped-calls
"""The policy that a later round starts from: the base model with the consortium's adapter, frozen.

Sequential DPO (arXiv 2512.15765, Algorithm 1) takes the policy of the round before as its reference and as
its start. That adapter is applied as every adapter is, by hooks and never merged (a merged bfloat16 weight
loses most of dW); what is trained in the round is a new adapter on top, so its dW is the increment alone.
"""

import copy
from dataclasses import replace

from patronage_protocol.adapters import decode, encoded_size
from patronage_protocol.canonical import canonical_bytes, sha256
from patronage_protocol.errors import RemoteProtocolError
from patronage_protocol.manifest import Manifest
from patronage_protocol.policy.adapting import AdapterSlot
from patronage_protocol.policy.base import BaseModel

__all__ = ["started"]


def started(base: BaseModel, manifest: Manifest, adapter: bytes) -> BaseModel:
    """The policy that the round of `manifest` starts from.

    Args:
        base: the base model of the round; it is left as it was, and its tensors are shared.
        manifest: terms with a `start`.
        adapter: the bytes of that adapter, from wherever they came.

    Returns:
        A model with the adapter in place for good. Its `weights` are a digest of both, so that nothing made
        on it is taken for something made on the base model.

    Raises:
        RemoteProtocolError: these are not the bytes that the manifest names.
        FormatError: they are no adapter of the declared format.
    """
    start = manifest.start
    assert start is not None, "the caller has looked"
    if sha256(adapter) != start.adapter:
        raise RemoteProtocolError(
            f"the consortium's adapter of round {start.round}, {start.adapter[:16]}",
            got=f"{len(adapter)} bytes with SHA-256 {sha256(adapter)[:16]}",
            do="ask the operator for the adapter that its ledger names",
            where="open §start",
        )
    lora = start.lora(manifest.lora)
    tensors = decode(adapter, lora, max_bytes=encoded_size(lora))
    shared = {id(tensor): tensor for tensor in (*base.model.parameters(), *base.model.buffers())}
    model = copy.deepcopy(base.model, shared)
    slot = AdapterSlot(lora, base.device)
    slot.load(tensors)
    for module in lora.modules():
        model.get_submodule(module).register_forward_hook(slot.hook(module))
    return replace(base, model=model, weights=sha256(canonical_bytes([base.weights, start.adapter])))
