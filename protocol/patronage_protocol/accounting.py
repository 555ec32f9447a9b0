"""The payouts of a verified ledger, for a spreadsheet (CSV) and for plain-text accounting.

Double entry, for each round that is final, with accounts of its own for the round:

    budget    assets:…:budget                 +B    liabilities:…:unallocated   -B
    payment   liabilities:…:unallocated       +p    liabilities:…:owners:NAME   -p     zero payments too
    refund    liabilities:…:unallocated       +r    liabilities:…:refund        -r

and the assertion that `unallocated` is zero in the end: the accounting tool itself then checks that payments
and refund are the budget. What was really transferred, and when, no ledger knows; that is for the books into
which this is included. The same ledger gives the same bytes: no clock, no locale, no floats.

Formats: RFC 4180; hledger's journal format; the language of beancount 2 and 3.
"""

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Literal

from patronage_protocol.currencies import decimal_text
from patronage_protocol.entries import AnyEntry, Paid, Refunded
from patronage_protocol.errors import UsageError
from patronage_protocol.manifest import Manifest
from patronage_protocol.rounds import Phase
from patronage_protocol.verify import Verdict

__all__ = [
    "FORMATS",
    "Format",
    "Line",
    "RoundBook",
    "beancount_account",
    "books_of",
    "spreadsheet_safe",
    "write_books",
]

Format = Literal["csv", "hledger", "beancount"]

CSV_COLUMNS = (
    "consortium",
    "round",
    "entry",
    "time",
    "kind",
    "party",
    "amount",
    "currency",
    "minor_units",
    "exponent",
    "reason",
)


@dataclass(frozen=True)
class Line:
    """One amount of a round.

    Attributes:
        entry: its number in the ledger, from 0.
        time: Unix seconds, the operator's clock.
        kind: what it is.
        party: the owner; empty for a refund.
        amount: minor units; negative if the owner pays in.
        reason: as the ledger has it.
    """

    entry: int
    time: int
    kind: Literal["payment", "refund"]
    party: str
    amount: int
    reason: str


@dataclass(frozen=True)
class RoundBook:
    """The money of one final round: the terms, when it was opened (entry and Unix seconds), every amount."""

    manifest: Manifest
    entry: int
    time: int
    lines: tuple[Line, ...]

    def text(self, amount: int) -> str:
        """An amount with its currency, such as `123.45 EUR`."""
        payout = self.manifest.payout
        return f"{decimal_text(amount, payout.exponent)} {payout.currency}"


def books_of(verdict: Verdict, round_number: int | None = None) -> tuple[RoundBook, ...]:
    """The books of every final round of a ledger, or of one.

    Args:
        verdict: of `verify_ledger`, which is the only source: nothing unverified is ever exported.
        round_number: only this round.

    Raises:
        UsageError: there is no such round, or none that is final.
    """
    books: list[RoundBook] = []
    for state, numbered in zip(verdict.rounds, _numbered(verdict), strict=True):
        if state.phase is Phase.FINAL and round_number in {None, state.manifest.round}:
            number, opened = numbered[0]
            lines = tuple(
                _line(number, entry) for number, entry in numbered if isinstance(entry, Paid | Refunded)
            )
            books.append(RoundBook(state.manifest, number, opened.time, lines))
    if not books:
        seen = ", ".join(f"round {state.manifest.round} ({state.phase.value})" for state in verdict.rounds)
        wanted = "a final round" if round_number is None else f"a final round {round_number}"
        raise UsageError(wanted, got=seen, do="wait for the end of the round")
    return tuple(books)


def write_books(verdict: Verdict, books: Sequence[RoundBook], layout: Format) -> str:
    """The text of an export. It ends in a line feed, and the same ledger gives the same text."""
    return FORMATS[layout](verdict, books)


def spreadsheet_safe(text: str) -> str:
    """A text that a spreadsheet shows and does not run: one that begins like a formula gets an apostrophe.

    OWASP, CSV Injection: `=`, `+`, `-`, `@`, tab and carriage return begin a formula. Numbers are not texts.
    """
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r", "＝", "＋", "－", "＠")) else text


def beancount_account(account: str) -> str:
    """Each part begins with a capital or a digit and has letters, digits and hyphens only.

    Names have no capitals, so that `Dot` and `Underscore` inside a part can only be ours, and no two names
    become one.
    """
    parts = (part.replace(".", "Dot").replace("_", "Underscore") for part in account.split(":"))
    return ":".join(part[0].upper() + part[1:] for part in parts)


def csv_text(_verdict: Verdict, books: Sequence[RoundBook]) -> str:
    """One row a payment or refund (RFC 4180, UTF-8), amounts as decimal numbers and as minor units."""
    out = io.StringIO()
    rows = csv.writer(out)
    rows.writerow(CSV_COLUMNS)
    for book in books:
        terms, payout = book.manifest, book.manifest.payout
        for line in book.lines:
            texts = (line.kind, line.party)
            rows.writerow(
                (
                    spreadsheet_safe(terms.consortium),
                    terms.round,
                    line.entry,
                    _moment(line.time).strftime("%Y-%m-%dT%H:%M:%SZ"),
                    *map(spreadsheet_safe, texts),
                    decimal_text(line.amount, payout.exponent),
                    spreadsheet_safe(payout.currency),
                    line.amount,
                    payout.exponent,
                    spreadsheet_safe(line.reason),
                )
            )
    return out.getvalue()


def hledger_text(verdict: Verdict, books: Sequence[RoundBook]) -> str:
    """A journal that `hledger --strict` takes: accounts and commodities are declared."""
    out = [*_heading(verdict), "", "decimal-mark ."]
    for code, exponent in sorted({(b.manifest.payout.currency, b.manifest.payout.exponent) for b in books}):
        out.append(f"commodity {decimal_text(1000 * 10**exponent, exponent)}{'' if exponent else '.'} {code}")
    for book in books:
        accounts = _accounts(book, lambda account: account)
        out += ["", *(f"account {account}" for account in accounts.values())]
        out += ["", f"{_day(book.time)} * {_title(book)} | budget", f"    ; entry:{book.entry}"]
        out += _postings(accounts["budget"], accounts["unallocated"], book, book.manifest.payout.budget)
        for line in book.lines:
            out += [
                "",
                f"{_day(line.time)} * {_title(book)} | {line.party or line.kind}",
                f"    ; entry:{line.entry}, kind:{line.kind}, reason:{line.reason}",
                *_postings(accounts["unallocated"], accounts[_key(line)], book, line.amount),
            ]
        out += ["", f"{_day(book.lines[-1].time)} * {_title(book)} | nothing is left"]
        out += [f"    {accounts['unallocated']}  {book.text(0)} = {book.text(0)}"]
    return "\n".join(out) + "\n"


def beancount_text(verdict: Verdict, books: Sequence[RoundBook]) -> str:
    """A file for beancount 2 or 3, which has dated `open` directives and names with capitals only."""
    out = _heading(verdict)
    for book in books:
        accounts = _accounts(book, beancount_account)
        currency, opened = book.manifest.payout.currency, _day(book.time)
        out += ["", *(f"{opened} open {account} {currency}" for account in accounts.values())]
        out += ["", f'{opened} * {_string(_title(book))} "budget"', f"  entry: {book.entry}"]
        out += _postings(accounts["budget"], accounts["unallocated"], book, book.manifest.payout.budget)
        for line in book.lines:
            out += [
                "",
                f"{_day(line.time)} * {_string(_title(book))} {_string(line.party or line.kind)}",
                f"  entry: {line.entry}",
                f"  kind: {_string(line.kind)}",
                f"  reason: {_string(line.reason)}",
                *_postings(accounts["unallocated"], accounts[_key(line)], book, line.amount),
            ]
        # `balance` looks at the beginning of its day, and without `~ 0` forgives a unit.
        after, nothing = _day(book.lines[-1].time, later=1), decimal_text(0, book.manifest.payout.exponent)
        out += ["", f"{after} balance {accounts['unallocated']}  {nothing} ~ {nothing} {currency}"]
    return "\n".join(out) + "\n"


FORMATS: Mapping[Format, Callable[[Verdict, Sequence[RoundBook]], str]] = MappingProxyType(
    {"csv": csv_text, "hledger": hledger_text, "beancount": beancount_text}
)


def _numbered(verdict: Verdict) -> Iterator[list[tuple[int, AnyEntry]]]:
    """The entries of each round with their numbers in the ledger."""
    start = 0
    for entries in verdict.entries:
        yield list(enumerate(entries, start))
        start += len(entries)


def _line(number: int, entry: Paid | Refunded) -> Line:
    owner = entry.owner if isinstance(entry, Paid) else ""
    kind: Literal["payment", "refund"] = "payment" if isinstance(entry, Paid) else "refund"
    return Line(number, entry.time, kind, owner, entry.amount, entry.reason)


def _accounts(book: RoundBook, spelled: Callable[[str], str]) -> dict[str, str]:
    """Account by what it is for; the round comes last, so that files of several rounds are read together."""
    base, round_name = f"patronage:{book.manifest.consortium}", f"round-{book.manifest.round}"
    accounts = {
        "budget": f"assets:{base}:budget:{round_name}",
        "unallocated": f"liabilities:{base}:unallocated:{round_name}",
        "refund": f"liabilities:{base}:refund:{round_name}",
    }
    for owner in book.manifest.owners:
        accounts[f"owner {owner.name}"] = f"liabilities:{base}:owners:{owner.name}:{round_name}"
    return {purpose: spelled(account) for purpose, account in accounts.items()}


def _key(line: Line) -> str:
    return f"owner {line.party}" if line.kind == "payment" else "refund"


def _postings(debit: str, credit: str, book: RoundBook, amount: int) -> list[str]:
    return [f"    {debit}  {book.text(amount)}", f"    {credit}  {book.text(-amount)}"]


def _heading(verdict: Verdict) -> list[str]:
    head = verdict.ledger.signed.checkpoint
    whose = "given by the reader" if verdict.pinned else "named by the ledger itself"
    return [
        f"; Payouts of {head.origin}, exported from a verified ledger of {head.size} entries.",
        f"; Root {head.root.hex()}",
        f"; Signed by {verdict.key.text}, a key {whose}.",
    ]


def _title(book: RoundBook) -> str:
    return f"{book.manifest.origin} round {book.manifest.round}"


def _string(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _day(unix: int, *, later: int = 0) -> str:
    return f"{_moment(unix + later * 86_400):%Y-%m-%d}"


def _moment(unix: int) -> datetime:
    return datetime.fromtimestamp(unix, UTC)
