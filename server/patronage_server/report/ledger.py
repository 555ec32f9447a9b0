"""The last part of the page: when it happened, what the ledger is, how to check it, what the words mean."""

from collections.abc import Sequence

from patronage_protocol.entries import (
    Aborted,
    Accepted,
    AnyEntry,
    Closed,
    Committed,
    Declined,
    Entry,
    Evaluated,
    Finished,
    Forfeited,
    Judged,
    KeyRevoked,
    KeyRotated,
    Opened,
    Paid,
    Questioned,
    Refunded,
    Revealed,
    Shown,
    Valued,
    Witnessed,
)
from patronage_protocol.evidence import MarginEvidence
from patronage_protocol.manifest import Manifest
from patronage_protocol.verify import not_known
from patronage_server.report.markup import Child, Markup, join, tag
from patronage_server.report.model import Report
from patronage_server.report.numbers import THIN, count, duration, entries, grouped, moment, money
from patronage_server.report.outcome import section
from patronage_server.report.strips import Axis, tick_strip
from patronage_server.report.tables import cell, facts, row, row_head, table
from patronage_server.report.words import GLOSSARY, policy_in_words, utility_in_words

__all__ = ["ledger", "terms", "timeline"]

STEPS: tuple[tuple[str, tuple[type[Entry], ...], str | None], ...] = (
    ("Open", (Opened,), None),
    ("Accept", (Accepted,), "accept"),
    ("Decline", (Declined,), None),
    ("Commit", (Committed,), "commit"),
    ("Close", (Closed,), None),
    ("Witness", (Witnessed,), None),
    ("Reveal", (Revealed,), "reveal"),
    ("Forfeit", (Forfeited,), None),
    ("Intake", (Judged,), None),
    ("Evaluate", (Evaluated,), None),
    ("Abort", (Aborted,), None),
    ("Value", (Valued,), None),
    ("Pay", (Paid, Refunded), None),
    ("Dispute", (Questioned, Shown), None),
    ("Final", (Finished,), None),
    ("Keys", (KeyRotated, KeyRevoked), None),
)
"""Rows of the timeline: a name, its kinds of entries, and the deadline that ends it."""


def timeline(report: Report) -> Markup:
    """When each phase happened, by the operator's clock."""
    first, last = report.entries[0].time, report.entries[-1].time
    axis = Axis(first - (last - first) * 0.02 - 0.5, last + (last - first) * 0.02 + 0.5, ())
    rows = []
    for name, kinds, deadline in STEPS:
        found = [entry for entry in report.entries if isinstance(entry, kinds)]
        if found:
            limit = None if deadline is None else int(getattr(report.manifest.deadlines, deadline))
            rows.append(_step(name, found, axis, first, limit))
    note = (
        f"From {moment(first)}, {_lasting(last - first)}, by the operator's clock; each mark is an entry. "
        f"Deadlines: accept {moment(report.manifest.deadlines.accept)}, commit "
        f"{moment(report.manifest.deadlines.commit)}, reveal {moment(report.manifest.deadlines.reveal)}."
    )
    heads = ("Phase", "Entries over time", "Entries", "After the opening")
    return section(
        "timeline", "How the round went", note, table("Entries by phase", heads, rows, class_="timeline")
    )


def ledger(report: Report) -> Markup:
    """The ledger's identity, how to check it, and what it cannot show."""
    checkpoint = report.signed.checkpoint
    digests: list[tuple[str, Child]] = [("Manifest", tag("code", report.manifest.digest))]
    if report.state.margins is not None:
        digests.append(
            (
                "Margins" if isinstance(report.evidence, MarginEvidence) else "Candidate pools",
                tag("code", report.state.margins),
            )
        )
    if report.shares_digest is not None:
        digests.append(("Shares", tag("code", report.shares_digest)))
    if report.state.adapter is not None:
        digests.append(("Consortium adapter", tag("code", report.state.adapter)))
    identity: list[tuple[str, Child]] = [
        ("Size", f"{entries(checkpoint.size)}, {count(report.rounds, 'round')}"),
        ("Root, hexadecimal", tag("code", checkpoint.root.hex())),
        ("Operator's key", tag("code", report.vkey.text)),
        *digests,
    ]
    command = f"echo '{report.vkey.text}' > operator.vkey\npatronage verify ledger --trust operator.vkey"
    check = join(
        tag("h3", "Check it yourself"),
        tag(
            "p",
            "Needs the base install alone and no network; ",
            tag("code", "ledger"),
            " is the published folder. The key above is the one that the ledger itself names: compare it "
            "with what the operator told you by another way, and the checkpoint with what other owners "
            "hold.",
        ),
        tag(
            "pre", _lines(command), class_="copy", tabindex="0", aria_label="Commands that verify the ledger"
        ),
    )
    unknown = join(
        tag("h3", "What no ledger can show"),
        tag("ul", *(tag("li", f"{line[0].upper()}{line[1:]}.") for line in not_known([report.manifest]))),
    )
    text = report.signed.encode().decode("utf-8").removesuffix("\n")
    head = join(
        tag("h3", "Checkpoint"),
        tag("pre", _lines(text), class_="copy", tabindex="0", aria_label="The signed checkpoint in full"),
    )
    note = "This page follows from these bytes. It was made from a ledger that verified."
    return section("ledger", "The ledger", note, facts(identity), head, check, unknown)


def terms(report: Report) -> Markup:
    """What was agreed, and what the words mean."""
    manifest = report.manifest
    base, lora, dpo, interval = manifest.base_model, manifest.lora, manifest.dpo, manifest.interval
    modules = ", ".join(dict.fromkeys(group.module.rsplit(".", 1)[-1] for group in lora.groups))
    adapted = f"rank {lora.rank}, alpha {lora.alpha:g}, {count(len(lora.modules()), 'module')}: {modules}"
    training = (
        f"beta {dpo.beta:g}, learning rate {dpo.learning_rate:g} ({dpo.schedule}), "
        f"{count(dpo.epochs, 'epoch')}, batches of {dpo.batch_size} × {dpo.gradient_accumulation}, "
        f"at most {grouped(dpo.max_length)} tokens"
    )
    limit = f"{manifest.payout.max_detectable_percent}{THIN}%"
    agreed: list[tuple[str, Child]] = [
        (
            "Base model",
            join(
                f"{base.name}, {base.architecture}, {base.precision}, weights ",
                tag("code", base.weights[:16]),
                "…",
            ),
        ),
        *_start(report),
        ("LoRA", adapted),
        ("DPO", training),
        ("Held-out pairs", _held_out(manifest)),
        ("Utility", utility_in_words(report)),
        ("Interval", f"{interval.level:.4g}, {grouped(interval.replicates)} bootstrap replicates of prompts"),
        ("Payout", f"{money(manifest.payout.budget, manifest.payout)}, {policy_in_words(report)}"),
        ("Power", f"Refunded if the smallest detectable share exceeds {limit} of an equal share."),
        ("Operator", manifest.operator.name),
        (
            "Software",
            ", ".join(f"{name} {version}" for name, version in sorted(manifest.versions.items()))
            or "none declared",
        ),
        *GLOSSARY.items(),
    ]
    return section(
        "terms",
        "Terms",
        "What was agreed before anybody trained, and what the words mean.",
        facts(agreed, class_="facts prose"),
    )


def _start(report: Report) -> list[tuple[str, Child]]:
    """What a later round starts from."""
    start = report.manifest.start
    if start is None:
        return []
    known = join(
        f"the consortium's adapter of round {start.round}, rank {start.rank}, ", tag("code", start.adapter)
    )
    return [("Starts from", known)]


def _step(name: str, found: Sequence[AnyEntry], axis: Axis, start: int, deadline: int | None) -> Markup:
    times = [entry.time for entry in found]
    when = _offset(times[0] - start)
    if times[-1] != times[0]:
        when = f"{when} to {_offset(times[-1] - start)}"
    return row(
        row_head(name),
        cell(
            tick_strip(axis, times, deadline=deadline, label=f"{name}: {count(len(found), 'time')}, {when}"),
            class_="figure",
        ),
        cell(str(len(found)), tag("small", owner) if (owner := _who(found)) else None, class_="entries"),
        cell(when, class_="number when"),
    )


def _who(found: Sequence[AnyEntry]) -> str:
    """The owner, if the entry is the only one of its step and has an owner."""
    return str(getattr(found[0], "owner", "")) if len(found) == 1 else ""


def _offset(seconds: int) -> str:
    return f"+{duration(seconds)}"


def _lasting(seconds: int) -> str:
    return "all in one second" if seconds == 0 else f"over {duration(seconds)}"


def _lines(text: str) -> Markup:
    """Text of several lines; each is escaped, the line breaks stay."""
    return Markup("\n".join(join(line) for line in text.split("\n")))


def _held_out(manifest: Manifest) -> str:
    prompts = sum(part.prompts for part in manifest.held_out_sets)
    text = f"{grouped(manifest.held_out_pairs)} pairs on {count(prompts, 'prompt')}"
    given = ", ".join(f"{part.owner} {grouped(part.pairs)}" for part in manifest.slices.of)
    return f"{text}; owners contributed: {given}, and are not scored on their own" if given else text
