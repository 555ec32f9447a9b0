"""Names on the wire: what a message between operator and owner is called and what its parts are called.

Carriers (Flower today) map these to their own records on either side.
"""

from typing import Final

__all__ = ["ADAPTER", "ADAPTER_TYPE", "RECORD", "Action", "Field"]

RECORD: Final = "patronage"
ADAPTER: Final = "adapter"
ADAPTER_TYPE: Final = "safetensors"


class Action:
    """What the operator asks for."""

    OFFER: Final = "offer"
    TRAIN: Final = "train"
    COSIGN: Final = "cosign"
    REVEAL: Final = "reveal"
    QUESTION: Final = "question"
    RECEIPT: Final = "receipt"


class Field:
    """Byte strings in a message.

    An envelope, an offered manifest and its signature, the rotations of the operator's key, the adapter to
    start from, a problem in words.
    """

    STATEMENT: Final = "statement"
    MANIFEST: Final = "manifest"
    SIGNATURE: Final = "signature"
    ROTATIONS: Final = "rotations"
    START: Final = "start"
    PROBLEM: Final = "problem"
