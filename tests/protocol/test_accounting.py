"""Payouts for spreadsheets and plain-text accounting, read back by the programs that they are for."""

import csv
import io
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patronage_protocol.accounting import (
    FORMATS,
    Format,
    Line,
    RoundBook,
    beancount_account,
    books_of,
    spreadsheet_safe,
    write_books,
)
from patronage_protocol.entries import AnyEntry, Finished, Opened, Paid, Refunded
from patronage_protocol.errors import UsageError
from patronage_protocol.keys import PrivateKey
from patronage_protocol.ledger.checkpoints import Checkpoint
from patronage_protocol.ledger.notes import VerifierKey
from patronage_protocol.ledger.published import BlobFolder, PublishedLedger
from patronage_protocol.manifest import Manifest
from patronage_protocol.rounds import Phase, Round
from patronage_protocol.verify import Verdict

NOW = 1_800_000_000  # 2027-01-15 08:00:00 UTC
KEY = PrivateKey.from_seed(b"\x01" * 32)

Manifests = Callable[..., Manifest]
Terms = Callable[..., object]
NAMES = st.from_regex(r"\A[a-z0-9]([a-z0-9._-]{0,20}[a-z0-9])?\Z")


def verdict_of(
    *rounds: Round, entries: tuple[tuple[AnyEntry, ...], ...] = (), pinned: bool = True
) -> Verdict:
    signed = Checkpoint("operator/orchard", 9, b"\x07" * 32).sign(KEY)
    return Verdict(
        ledger=PublishedLedger((), signed, BlobFolder(Path("nowhere"), frozenset())),
        rounds=rounds,
        entries=entries,
        checks=(),
        key=VerifierKey.ed25519("operator/orchard", KEY.public),
        pinned=pinned,
    )


def book_of(manifest: Manifest, *amounts: tuple[str, int, str], time: int = NOW) -> RoundBook:
    """A round that paid these owners; what is left of the budget is refunded."""
    lines = [Line(5 + k, time + 60, "payment", *amount) for k, amount in enumerate(amounts)]
    refund = manifest.payout.budget - sum(amount for _, amount, _ in amounts)
    if refund:
        lines.append(Line(5 + len(lines), time + 60, "refund", "", refund, "unspent"))
    return RoundBook(manifest, 0, time, tuple(lines))


@pytest.fixture
def books(manifest_of: Manifests, payout_terms: Terms) -> tuple[RoundBook, ...]:
    """Two rounds of odd names and currencies: a refund, zero payouts, an owner that pays in."""
    first = manifest_of("ann.smith", "ann_smith", "ann-smith", "3-4", "1e5", "007", "x")
    yen = payout_terms(currency="JPY", exponent=0, policy="signed", bond=50, budget=1000)
    second = manifest_of("ann.smith", "zoe", round=2, payout=yen)
    return (
        book_of(
            first,
            ("007", 1, "share"),
            ("1e5", 0, "not-above-zero"),
            ("3-4", 0, "rejected"),
            ("ann-smith", 20_050, "share"),
            ("ann.smith", 30_005, "share"),
            ("ann_smith", 40_000, "share"),
            ("x", 0, "forfeited"),
        ),
        book_of(second, ("ann.smith", 1050, "share"), ("zoe", -50, "share"), time=NOW + 86_400),
    )


# owner or other account -> balance, as a tool must see it; liabilities are negative
EXPECTED = {
    "budget:1": "1000.00 EUR",
    "007:1": "-0.01 EUR",
    "ann-smith:1": "-200.50 EUR",
    "ann.smith:1": "-300.05 EUR",
    "ann_smith:1": "-400.00 EUR",
    "refund:1": "-99.44 EUR",
    "budget:2": "1000 JPY",
    "ann.smith:2": "-1050 JPY",
    "zoe:2": "50 JPY",
}


def test_the_spreadsheet_has_one_row_an_amount(books: tuple[RoundBook, ...]) -> None:
    rows = list(csv.DictReader(io.StringIO(write_books(verdict_of(), books, "csv"))))
    assert rows[3] == {
        "consortium": "orchard",
        "round": "1",
        "entry": "8",
        "time": "2027-01-15T08:01:00Z",
        "kind": "payment",
        "party": "ann-smith",
        "amount": "200.50",
        "currency": "EUR",
        "minor_units": "20050",
        "exponent": "2",
        "reason": "share",
    }
    assert [(row["party"], row["reason"]) for row in rows if row["minor_units"] == "0"] == [
        ("1e5", "not-above-zero"),
        ("3-4", "rejected"),
        ("x", "forfeited"),
    ]
    assert [(row["kind"], row["amount"], row["reason"]) for row in rows if not row["party"]] == [
        ("refund", "99.44", "unspent")
    ]
    assert [row["amount"] for row in rows if row["round"] == "2"] == ["1050", "-50"]


@given(st.text())
def test_no_text_reaches_a_spreadsheet_as_a_formula(text: str) -> None:
    safe = spreadsheet_safe(text)
    assert safe[:1] not in {"=", "+", "-", "@", "\t", "\r"}
    assert safe.removeprefix("'") == text.removeprefix("'")


@pytest.mark.parametrize(
    "text", ["=1+1", "+A1", "-2+3", "@SUM(A1)", "\t=1", "\r=1", '=HYPERLINK("http://x","y")', "＝1"]
)
def test_what_begins_like_a_formula_gets_an_apostrophe(text: str) -> None:
    assert spreadsheet_safe(text) == f"'{text}"


@pytest.mark.parametrize("layout", FORMATS)
def test_the_same_ledger_gives_the_same_bytes_anywhere(
    books: tuple[RoundBook, ...], layout: Format, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = write_books(verdict_of(), books, layout)
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    assert write_books(verdict_of(), books, layout) == first
    assert first.endswith("\n")


@given(NAMES, NAMES)
def test_two_owners_never_share_an_account(one: str, other: str) -> None:
    account = beancount_account(f"owners:{one}")
    assert re.fullmatch(r"Owners:[A-Z0-9][A-Za-z0-9-]*", account)
    assert (account == beancount_account(f"owners:{other}")) == (one == other)


@pytest.mark.parametrize("pair", [("a.b", "adotb"), ("a_b", "aunderscoreb"), ("a.b", "a_b"), ("a-b", "a.b")])
def test_names_that_differ_in_a_sign_alone_stay_apart(pair: tuple[str, str]) -> None:
    assert beancount_account(pair[0]) != beancount_account(pair[1])


def test_hledger_reads_the_journal_and_sees_the_same_balances(
    books: tuple[RoundBook, ...], tmp_path: Path
) -> None:
    journal = tmp_path / "payouts.journal"
    journal.write_text(write_books(verdict_of(), books, "hledger"))
    words = ("-f", journal, "--strict", "balance", "--flat", "--output-format", "csv")
    found = {}
    for account, balance in list(csv.reader(io.StringIO(run("hledger", *words).stdout)))[1:]:
        if account != "total":
            *_, name, number = account.split(":")
            found[f"{name}:{number.removeprefix('round-')}"] = balance
    assert found == EXPECTED


def test_beancount_reads_the_file_and_sees_the_same_balances(
    books: tuple[RoundBook, ...], tmp_path: Path
) -> None:
    text = write_books(verdict_of(), books, "beancount")
    for name, amount in EXPECTED.items():
        owner, number = name.split(":")
        root = {"budget": "assets", "refund": "liabilities"}.get(owner, "liabilities")
        between = "" if owner in {"budget", "refund"} else "owners:"
        account = beancount_account(f"{root}:patronage:orchard:{between}{owner}:round-{number}")
        value, currency = amount.split()
        text += f"2030-01-01 balance {account} {value} ~ 0 {currency}\n"
    done = bean_check(text, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    changed = bean_check(text.replace("-200.50 ~ 0", "-200.51 ~ 0"), tmp_path)
    assert "Balance failed" in changed.stderr


def test_an_amount_that_was_changed_by_one_unit_is_noticed_by_the_tools(
    books: tuple[RoundBook, ...], tmp_path: Path
) -> None:
    """The whole amount of a payment, on both sides: only the assertion at the end can see it."""
    for layout, before, after in (("hledger", "300.05", "300.06"), ("beancount", "300.05", "300.06")):
        text = write_books(verdict_of(), books, layout).replace(before, after)  # type: ignore[arg-type]
        if layout == "beancount":
            assert "Balance failed" in bean_check(text, tmp_path).stderr
        else:
            (tmp_path / "changed.journal").write_text(text)
            done = run("hledger", "-f", tmp_path / "changed.journal", "balance", check=False)
            assert done.returncode != 0
            assert "balance assertion" in done.stderr


def test_only_final_rounds_are_in_the_books_with_their_entries_counted_from_the_ledgers_first(
    manifest_of: Manifests,
) -> None:
    first, second = manifest_of("ann", "bob"), manifest_of("ann", "bob", round=2)
    opened = Opened(time=NOW, manifest="0a" * 32, signature="")
    paid = [Paid(time=NOW + 9, owner=o, amount=n, reason="share") for o, n in (("ann", 7), ("bob", 0))]
    refund = Refunded(time=NOW + 9, amount=99_993, reason="unspent")
    entries = ((opened, *paid, refund, Finished(time=NOW + 9, adapter=None)), (opened, *paid, refund))
    final = Round(first, NOW, Phase.FINAL, {})
    one = verdict_of(final, Round(second, NOW, Phase.SETTLED, {}), entries=entries)
    (book,) = books_of(one)
    assert [(line.entry, line.party, line.amount) for line in book.lines] == [
        (1, "ann", 7),
        (2, "bob", 0),
        (3, "", 99_993),
    ]
    both = verdict_of(final, Round(second, NOW, Phase.FINAL, {}), entries=entries)
    assert [line.entry for book in books_of(both, 2) for line in book.lines] == [6, 7, 8]
    with pytest.raises(UsageError, match=r"a final round 2, got round 1 \(final\), round 2 \(settled\)"):
        books_of(one, 2)


def test_the_texts_say_whose_key_was_believed(books: tuple[RoundBook, ...]) -> None:
    for layout in ("hledger", "beancount"):
        for pinned, whose in ((True, "given by the reader"), (False, "named by the ledger itself")):
            text = write_books(verdict_of(pinned=pinned), books, layout)  # type: ignore[arg-type]
            assert whose in text


def run(tool: str, *words: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    """A tool from the path or from beside the interpreter."""
    beside = Path(sys.executable).with_name(tool)
    found = shutil.which(tool) or (str(beside) if beside.is_file() else None)
    if found is None:
        pytest.skip(f"{tool} is not installed")
    return subprocess.run([found, *map(str, words)], capture_output=True, text=True, check=check)


def bean_check(text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "payouts.beancount").write_text(text)
    return run("bean-check", "--no-cache", folder / "payouts.beancount", check=False)
