"""How private an owner's training is: what it asks for, what Opacus' accountant says it spent, the noise.

One pair is one record: the guarantee compares training on some pairs with training on the same pairs and one
more. Neither the number of pairs nor the learning terms are secret.

    Pr[adapter in E | D] <= exp(epsilon) Pr[adapter in E | D'] + delta

Sources: Abadi et al. 2016, arXiv 1607.00133 (DP-SGD); Mironov et al. 2019, arXiv 1908.10530 (Renyi accounting
of the Poisson-sampled Gaussian mechanism), as Opacus implements it. Opacus is an optional extra.
"""

import warnings
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from numpy.typing import NDArray

from patronage_protocol.errors import MissingExtraError, UsageError
from patronage_protocol.messages import Privacy

__all__ = ["PrivacyChoice", "SecretStream", "planned_privacy"]

ACCOUNTANT = "rdp"


@dataclass(frozen=True)
class PrivacyChoice:
    """What an owner asks for.

    Attributes:
        epsilon, delta: the guarantee; delta must be below one over the number of pairs.
        clip: the norm to which the gradient of a pair is cut.
    """

    epsilon: float
    delta: float
    clip: float = 1.0


def planned_privacy(choice: PrivacyChoice, *, pairs: int, sample_rate: float, steps: int) -> Privacy:
    """The noise that a training needs, and what it will have spent.

    Args:
        choice: what is asked for.
        pairs: how many there are.
        sample_rate: the chance of each pair to be in a step's batch.
        steps: of the optimiser.

    Raises:
        UsageError: a guarantee that says nothing or cannot be met.
        MissingExtraError: Opacus is not installed.
    """
    if not 0 < choice.delta < 1 / pairs:
        raise UsageError(
            f"--delta above 0 and below 1 / {pairs} pairs",
            got=f"{choice.delta:g}",
            do="name a smaller one: with a larger one a whole pair could leave at random",
        )
    if choice.epsilon <= 0 or choice.clip <= 0:
        raise UsageError(
            "--epsilon and the clipping norm above 0",
            got=f"{choice.epsilon:g} and {choice.clip:g}",
            do="name others",
        )
    noise, spent = _accounted(choice, sample_rate, steps)
    return Privacy(
        epsilon=spent,
        delta=choice.delta,
        noise_multiplier=noise,
        clip=choice.clip,
        sample_rate=sample_rate,
        steps=steps,
        accountant="rdp",
    )


class SecretStream:
    """Random numbers that nobody without the key can tell from true ones: ChaCha20, RFC 8439.

    torch's generator on the CPU has 32 bits of seed: noise from it could be found by trying them all.

    Args:
        key: 32 secret bytes.
        number: which of the key's streams, such as the step.
    """

    def __init__(self, key: bytes, number: int) -> None:
        nonce = bytes(4) + number.to_bytes(12, "little")
        self._cipher = Cipher(ChaCha20(key, nonce), mode=None).encryptor()

    def uniform(self, count: int) -> NDArray[np.float64]:
        """In [0, 1), 53 bits each."""
        words = np.frombuffer(self._cipher.update(bytes(8 * count)), dtype="<u8")
        return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def normal(self, count: int) -> NDArray[np.float64]:
        """Standard normal, by Box and Muller 1958."""
        half = (count + 1) // 2
        radius = np.sqrt(-2 * np.log1p(-self.uniform(half)))
        angle = 2 * np.pi * self.uniform(half)
        return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count]


def _accounted(choice: PrivacyChoice, sample_rate: float, steps: int) -> tuple[float, float]:
    """The noise multiplier that keeps within epsilon, and the epsilon that it spends."""
    opacus = _opacus()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Optimal order is the")  # a bound, only not the tightest
        try:
            noise = opacus.utils.get_noise_multiplier(
                target_epsilon=choice.epsilon,
                target_delta=choice.delta,
                sample_rate=sample_rate,
                steps=steps,
                accountant=ACCOUNTANT,
            )
        except ValueError as error:
            raise UsageError(
                "privacy that some amount of noise gives",
                got=f"epsilon {choice.epsilon:g}, delta {choice.delta:g} ({error})",
                do="allow a larger epsilon, or train on more pairs",
            ) from error
        accountant = opacus.create_accountant(ACCOUNTANT)
        accountant.history = [(noise, sample_rate, steps)]
        return float(noise), float(accountant.get_epsilon(choice.delta))


def _opacus() -> ModuleType:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what Opacus imports and does not need here
            module = import_module("opacus.accountants")
            import_module("opacus.accountants.utils")
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "opacus", extra="private") from error
    return module
