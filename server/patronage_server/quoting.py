"""`patronage operator quote-model`: score a public sample with the large model, fit its student, sign it.

The scores are LinFiK at the start of a round with the operator's terms, measured on a public objective. The
round's held-out pairs must not be that objective: a student of their gradient, handed to everybody, would
tell owners what the round is scored on.
"""

from dataclasses import dataclass
from pathlib import Path

from patronage_protocol.canonical import canonical_bytes, sha256
from patronage_protocol.joining import write_envelope
from patronage_protocol.manifest import LoraTerms
from patronage_protocol.pair_files import read_pairs
from patronage_protocol.policy import (
    length_check,
    lora_groups,
    progress_bar,
    shared_base_model,
    tokenize_pairs,
)
from patronage_protocol.policy.linearised import Checkpoint, linearised_influence, objective_gradient
from patronage_protocol.quotes.features import pair_features
from patronage_protocol.quotes.model import QuoteModel, Scored, draw_up
from patronage_protocol.quotes.student import fit_student
from patronage_protocol.settings import read_settings
from patronage_server.development import apart
from patronage_server.home import OperatorHome
from patronage_server.terms import RoundTerms

__all__ = ["QuoteSource", "make_quote_model"]


@dataclass(frozen=True)
class QuoteSource:
    """Files of public pairs: the sample that is scored, and the objective that it is scored on.

    Without an objective the operator's development pairs are it.
    """

    sample: Path
    objective: Path | None = None


def make_quote_model(home: OperatorHome, consortium: str, source: QuoteSource, out: Path) -> QuoteModel:
    """Make the quote model of the operator's terms, and write it signed to `out`.

    Raises:
        UsageError: the objective shares prompts with the sample or with the held-out pairs, or the sample is
            too small.
        DataError: pairs or terms that cannot be used.
        UnavailableError: a file, the model or memory is missing.
    """
    key = home.key  # a passphrase is asked for before the work, not after it
    terms = read_settings(home.path / "terms.toml", RoundTerms)
    base = shared_base_model(
        home.config.base_model,
        precision=home.config.precision,
        device=home.config.device,
        cache=home.cache,
    )
    lora = LoraTerms(
        rank=terms.lora.rank,
        alpha=terms.lora.alpha,
        init_seed=terms.lora.init_seed,
        groups=lora_groups(base.model, terms.lora.target_modules),
    )
    aim = home.development if source.objective is None else source.objective
    check = length_check(base, terms.dpo.max_length)
    sample, objective = (read_pairs(path, check=check).pairs for path in (source.sample, aim))
    apart(objective, sample, "an objective", "the sample")
    held_out = read_pairs(home.held_out).pairs
    apart(objective, held_out, "an objective", "the held-out pairs, on which rounds are scored")
    start = Checkpoint.start(base, lora, terms.dpo.beta)
    tokens = tokenize_pairs(base, sample, max_length=terms.dpo.max_length)
    with progress_bar("objective") as progress:
        direction = objective_gradient(
            start, tokenize_pairs(base, objective, max_length=terms.dpo.max_length), progress=progress
        )
    with progress_bar("sample") as progress:
        scores = linearised_influence(start, direction, tokens, progress=progress)
    prompts = [pair.prompt_digest for pair in sample]
    model = draw_up(
        fit_student(pair_features(sample), scores, prompts),
        scores,
        consortium=consortium,
        scored=Scored(
            base_model=base.terms(),
            lora=lora.digest,
            dpo=terms.dpo.digest,
            objective=sha256(canonical_bytes([pair.digest for pair in objective])),
        ),
        prompts=prompts,
    )
    write_envelope(out, model.seal(key))
    return model
