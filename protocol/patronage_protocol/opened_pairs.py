"""Whether opened held-out pairs have the prompts that they were counted under.

Intervals resample whole prompts, so an operator that counts one prompt as several makes shares look surer
than they are. Margin evidence numbers the prompts of pairs without showing them; an opened pair shows its
own. Opened pairs have one prompt (byte for byte, `PreferencePair.prompt_digest`) if and only if they have one
number. Candidate pools are numbered by prompt and not by pair: there, opened pairs are held against the
counts in the terms alone.
"""

from collections.abc import Mapping, Sequence

from patronage_protocol.held_out_terms import HeldOutTerms

__all__ = ["against_clusters", "against_counts"]


def against_clusters(opened: Mapping[int, str], index: int, clusters: Sequence[int]) -> str | None:
    """What an opened pair and the evidence disagree on, or None.

    Args:
        opened: the opened pairs, index to the digest of the prompt, the one at `index` among them.
        index: of the pair that is looked at.
        clusters: the number of every pair's prompt, as the evidence has it.
    """
    for other, prompt in opened.items():
        same, counted = prompt == opened[index], clusters[other] == clusters[index]
        if same != counted:
            as_opened, as_counted = ("one prompt", "two") if same else ("two prompts", "one")
            return f"{as_opened} of pairs {other} and {index}, counted as {as_counted}"
    return None


def against_counts(opened: Mapping[int, str], held_out: HeldOutTerms) -> str | None:
    """Why a set with the pairs and prompts of the terms cannot hold these opened pairs, or None."""
    prompts = len(set(opened.values()))
    if prompts > held_out.prompts:
        return f"{prompts} prompts among opened pairs, of {held_out.prompts} in all"
    if len(opened) - prompts > held_out.pairs - held_out.prompts:
        return f"{len(opened)} opened pairs on {prompts} prompts, too few for {held_out.prompts} in all"
    return None
