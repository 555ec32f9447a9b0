"""The report of a round: made from the ledger alone, says what it says, and lets nothing out of hand."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patronage_protocol.errors import UnavailableError, UsageError, VerificationError
from patronage_protocol.fixed_point import to_float
from patronage_protocol.manifest import BaseModelTerms, GameTerms, PayoutTerms
from patronage_protocol.rounds import Phase
from patronage_protocol.verify import not_known
from patronage_server.report import coalitions, read_report, render, save
from patronage_server.report.markup import Markup, tag
from patronage_server.report.numbers import THIN, money, part_of, places_for, signed
from patronage_server.report.words import fate

Scenarios = Mapping[str, Any]
Ledgers = Callable[..., Path]
VOID = {"meta", "link", "br"}
HOSTILE = "<script>alert(1)</script>\"'&amp;\u202eevil\n</style><svg onload=x>"


class Page(HTMLParser):
    """A page taken apart: its elements, its visible text, and whether every element is closed."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(page.decode())
        self.close()
        assert not self.open, "every element is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).replace(THIN, " ").replace("\u00a0", " ").split())


def patronage(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The command line, as a process of its own."""
    program = "from patronage_protocol.cli import main; main()"
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def page_of(folder: Path) -> Page:
    return Page(render(read_report(folder)))


def test_a_round_that_was_paid_says_who_got_what_and_why(scenarios: Scenarios, ledger_of: Ledgers) -> None:
    folder = ledger_of(scenarios["healthy"])
    report, text = read_report(folder), page_of(folder).text
    assert "Paid to 2 of 7 owners" in text
    assert re.search(r"expected preference accuracy from 50\.0 % to 5\d\.\d %", text)
    settlement = report.state.settlement
    assert settlement is not None
    for payment in settlement.payments:
        euros = f"{payment.amount // 100}.{payment.amount % 100:02} EUR"
        assert f"{payment.owner} " in text
        assert euros in text
    assert "interval of its share lies below zero" in fate(report, "dogwood")
    assert "so the round cannot tell it from zero" in fate(report, "cedar")
    assert fate(report, "elm") == "Its adapter was rejected at intake: “a copy of ash”."
    assert fate(report, "fir") == "Declined the terms: “the base model is not licensed to us”."
    assert fate(report, "gum") == "Forfeited its place: “no commitment by the deadline”."
    for owner in ("cedar", "dogwood", "elm", "fir", "gum"):
        assert fate(report, owner) in " ".join(page_of(folder).texts)


def test_shares_and_bounds_are_those_of_the_ledger(scenarios: Scenarios, ledger_of: Ledgers) -> None:
    report = read_report(ledger_of(scenarios["healthy"]))
    published = report.state.shares
    assert published is not None
    places = dict(zip(published.players, range(4), strict=True))
    assert [share.owner for share in report.shares] == ["ash", "birch", "cedar", "dogwood"]
    for share in report.shares:
        place = places[share.owner]
        for ours, theirs in (
            (share.point, published.shares[place]),
            (share.lower, published.lower[place]),
            (share.upper, published.upper[place]),
        ):
            assert ours * 2**40 == theirs


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("underpowered", "Refunded: the round was underpowered"),
        ("no-gain", "Refunded: the consortium gained nothing"),
        ("aborted", "Refunded: too few adapters were admitted"),
    ],
)
def test_a_refund_says_why(scenarios: Scenarios, ledger_of: Ledgers, name: str, title: str) -> None:
    text = page_of(ledger_of(scenarios[name])).text
    assert title in text
    assert "1 000.00 EUR refunded" in text
    assert "Nobody is paid." in text


@pytest.mark.parametrize("name", ["open", "scoring", "valuing", "paying"])
def test_an_unfinished_round_is_reported_as_far_as_it_came(
    scenarios: Scenarios, ledger_of: Ledgers, name: str
) -> None:
    report = read_report(ledger_of(scenarios[name]))
    text = Page(render(report)).text
    assert not report.finished
    assert "not finished" in text.lower() or "Not finished" in text
    assert ("What each adapter does" in text) == (name in ("valuing", "paying"))
    assert ("Who brought what" in text) == (name == "paying")
    assert ("still to be entered" in text) == (name == "paying")


def test_nothing_from_a_ledger_becomes_markup(scenarios: Scenarios, ledger_of: Ledgers) -> None:
    base = BaseModelTerms(
        name=HOSTILE, architecture=HOSTILE, precision="float32", weights="0a" * 32, tokenizer="0b" * 32
    )
    changes = {"base_model": base, "versions": {HOSTILE: HOSTILE}}
    hostile = replace(
        scenarios["healthy"], labels=(HOSTILE, "plain", "'\"", "<b>"), changes=changes, said=HOSTILE
    )
    page = render(read_report(ledger_of(hostile)))
    found = Page(page)
    assert not {name for name, _ in found.elements} & {"script", "b", "iframe", "img", "object", "form"}
    attributes = {attribute for _, attributes in found.elements for attribute in attributes}
    assert not {attribute for attribute in attributes if attribute.startswith("on")}
    assert "\u202e" not in page.decode()
    assert found.text.count("<script>alert(1)</script>") >= 6, "shown as text: labels, model, reasons"


@pytest.mark.parametrize("name", ["healthy", "underpowered", "aborted", "open", "seven", "crowd"])
def test_the_page_needs_nothing_but_itself(scenarios: Scenarios, ledger_of: Ledgers, name: str) -> None:
    page = render(read_report(ledger_of(scenarios[name])))
    found = Page(page)
    assert b"http://" not in page
    assert b"https://" not in page
    assert b"@import" not in page
    assert b"url(" not in page
    links = [value for _, attrs in found.elements for key, value in attrs.items() if key in ("src", "href")]
    assert links == ["data:,"]
    policy = [attrs["content"] for _, attrs in found.elements if "http-equiv" in attrs]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]


@pytest.mark.parametrize("name", ["healthy", "underpowered", "aborted", "open", "seven", "crowd"])
def test_every_figure_has_a_name_and_every_table_a_caption(
    scenarios: Scenarios, ledger_of: Ledgers, name: str
) -> None:
    found = page_of(ledger_of(scenarios[name]))
    names = [name for name, _ in found.elements]
    figures = [attrs for name, attrs in found.elements if name == "svg" and attrs.get("role") == "img"]
    assert figures
    assert all(attrs["aria-label"] for attrs in figures)
    assert names.count("caption") == names.count("table")
    assert names.count("h1") == 1
    assert names.index("h1") < names.index("h2") < names.index("h3")
    identifiers = [attrs["id"] for _, attrs in found.elements if "id" in attrs]
    assert len(set(identifiers)) == len(identifiers)


def test_the_same_ledger_gives_the_same_bytes_wherever_it_lies(
    scenarios: Scenarios, ledger_of: Ledgers, tmp_path: Path
) -> None:
    folder = ledger_of(scenarios["healthy"])
    shutil.copytree(folder, tmp_path / "elsewhere" / "copy")
    page = render(read_report(folder))
    assert render(read_report(tmp_path / "elsewhere" / "copy")) == page
    assert str(tmp_path).encode() not in page


def test_the_page_holds_what_an_auditor_needs(scenarios: Scenarios, ledger_of: Ledgers) -> None:
    folder = ledger_of(scenarios["healthy"])
    report, found = read_report(folder), page_of(folder)
    text = found.text
    assert (folder / "checkpoint").read_text().removesuffix("\n") in "".join(found.texts)
    for digest in (report.manifest.digest, report.state.margins, report.shares_digest, report.state.adapter):
        assert digest in text
    assert "patronage verify ledger --trust operator.vkey" in text
    assert report.vkey.text in text
    assert report.signed.checkpoint.root.hex() in text
    for line in not_known([report.manifest]):
        assert line[1:] in text


def test_mean_margins_are_those_of_the_evidence(scenarios: Scenarios, ledger_of: Ledgers) -> None:
    folder = ledger_of(scenarios["healthy"])
    evidence = read_report(folder).evidence
    assert evidence is not None
    values, sources = evidence.margins.reals(), np.array(evidence.header.sources)
    text = page_of(folder).text
    for player, name in enumerate(evidence.header.players):
        means = [values[player, sources == label].mean() for label in range(4)]
        cells = " ".join(signed(float(mean), 2) for mean in [*means, values[player].mean()])
        assert f"{name} {cells}" in text


def test_the_best_coalition_is_named_and_who_lowers_the_level(
    scenarios: Scenarios, ledger_of: Ledgers
) -> None:
    folder = ledger_of(scenarios["healthy"])
    report = read_report(folder)
    found, evidence = report.coalitions, report.evidence
    assert found is not None
    assert evidence is not None
    margins = evidence.margins.reals()

    def level(members: tuple[int, ...]) -> float:
        return float(np.mean(1 / (1 + np.exp(-margins[list(members)].sum(axis=0)))))

    levels = {coalition.members: level(coalition.members) for coalition in found.every}
    assert len(levels) == 16
    best = max(levels, key=levels.__getitem__)
    assert found.best().members == best
    text = page_of(folder).text
    assert f"the best is {found.name(found.best())}, at {100 * levels[best]:.1f} %" in text
    everybody = (0, 1, 2, 3)
    for owner, name in enumerate(found.owners):
        rest = levels[tuple(member for member in everybody if member != owner)]
        assert (f"Leaving out {name} would improve" in text) == (rest > levels[everybody])


def test_few_coalitions_have_the_values_of_all(
    scenarios: Scenarios, ledger_of: Ledgers, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = read_report(ledger_of(scenarios["seven"]))
    assert report.evidence is not None
    every = coalitions.coalitions_of(report.evidence, report.manifest)
    monkeypatch.setattr(coalitions, "MOST_FOR_ALL", 3)
    few = coalitions.coalitions_of(report.evidence, report.manifest)
    assert (len(every.every), len(few.every)) == (128, 0)
    np.testing.assert_allclose(few.alone, every.alone, atol=1e-12)
    np.testing.assert_allclose(few.without, every.without, atol=1e-12)
    assert few.grand == pytest.approx(every.grand, abs=1e-12)
    assert few.best().members == (0, 1, 2, 3, 4, 6), "all but the flipped owner"


@pytest.mark.parametrize(
    ("utility", "level"),
    [
        ("log_sigmoid", r"preference loss from 0\.693 nats to 0\.[56]\d+ nats"),
        ("win", r"accuracy from 50\.0 % to"),
    ],
)
def test_every_utility_is_read_on_its_own_scale(
    scenarios: Scenarios,
    ledger_of: Ledgers,
    payout_terms: Callable[..., PayoutTerms],
    utility: str,
    level: str,
) -> None:
    game = GameTerms(composition="sum", utility=utility, scale_bits=16)  # type: ignore[arg-type]
    changes = {"game": game, "payout": payout_terms(max_detectable_percent=1_000_000)}
    text = page_of(ledger_of(replace(scenarios["healthy"], changes=changes))).text
    assert re.search(level, text)
    assert ("Not defined for the utility win" in text) == (utility == "win")


def test_objectives_are_drawn_as_vectors_and_told_apart(scenarios: Scenarios, ledger_of: Ledgers) -> None:
    folder = ledger_of(scenarios["rewards"])
    report, page = read_report(folder), page_of(folder)
    assert "What it was good for" in page.text
    assert re.search(r"expected reward from -?0\.\d+ to 0\.\d+", page.text.replace("\u2212", "-"))
    assert "Not defined for the utility reward" in page.text
    assert sum(attributes.get("class") == "vector" for _, attributes in page.elements) == 4
    assert report.state.shares is not None
    pool = report.state.shares.pool
    assert pool is not None
    helpful, harmless = pool.objectives
    ash, birch = (report.state.players.index(name) for name in ("ash", "birch"))
    assert helpful.shares[ash] > helpful.shares[birch]
    assert harmless.shares[ash] < harmless.shares[birch]
    for one in pool.objectives:
        assert signed(to_float(one.shares[ash]), 4)[:6] in " ".join(page.texts)
    assert report.coalitions is not None
    assert report.coalitions.grand == pytest.approx(report.grand, abs=1e-9)


def test_a_round_with_one_objective_has_no_plane(scenarios: Scenarios, ledger_of: Ledgers) -> None:
    game = scenarios["rewards"].changes["game"]
    game = game.model_copy(update={"objectives": game.objectives[:1]})
    page = page_of(ledger_of(replace(scenarios["rewards"], changes={"game": game})))
    assert "What it was good for" in page.text
    assert not any(attributes.get("class") == "vector" for _, attributes in page.elements)


def test_degenerate_candidates_are_a_reason_to_refund(scenarios: Scenarios, ledger_of: Ledgers) -> None:
    game = scenarios["rewards"].changes["game"]
    pool = game.pool.model_copy(update={"min_effective": 7.9})
    changes = {"game": game.model_copy(update={"pool": pool})}
    text = page_of(ledger_of(replace(scenarios["rewards"], changes=changes))).text
    assert "Refunded: the candidates hardly speak for some coalition" in text
    assert re.search(r"Of 8 candidates a prompt, \d\.\d count for (ash|birch|cedar|dogwood)", text)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"policy": "clipped"}, "Nothing: its share is not above zero."),
        ({"policy": "signed", "bond": 5_000}, "Pays in its bond."),
        ({"policy": "per_unit", "unit_price": 200_000}, "of the budget, by unit of utility."),
        ({"budget": 0}, "The budget of the round is zero."),
        ({"budget": 1}, "Nothing: its part comes to less than one minor unit."),
    ],
)
def test_every_policy_has_its_sentence(
    scenarios: Scenarios,
    ledger_of: Ledgers,
    payout_terms: Callable[..., PayoutTerms],
    changes: dict[str, Any],
    sentence: str,
) -> None:
    terms = {"payout": payout_terms(**changes)}
    assert sentence in page_of(ledger_of(replace(scenarios["healthy"], changes=terms))).text


def test_each_round_of_a_ledger_has_its_report(scenarios: Scenarios, ledger_of: Ledgers) -> None:
    folder = ledger_of(scenarios["healthy"], scenarios["scoring"])
    assert read_report(folder).manifest.round == 2
    first = read_report(folder, round_number=1)
    assert first.state.phase is Phase.FINAL
    assert "Paid to 2 of 7 owners" in Page(render(first)).text
    assert not set(map(id, first.entries)) & set(map(id, read_report(folder).entries))
    with pytest.raises(UsageError, match="1 to 2"):
        read_report(folder, round_number=3)


def test_a_ledger_that_does_not_verify_gets_no_report(scenarios: Scenarios, ledger_of: Ledgers) -> None:
    folder = ledger_of(scenarios["healthy"])
    blob = max((folder / "blobs" / "sha256").iterdir(), key=lambda path: path.stat().st_size)
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.write_bytes(data)
    with pytest.raises(VerificationError):
        read_report(folder)
    result = patronage("report", folder)
    assert result.returncode == 1
    assert result.stderr.startswith("NOT VERIFIED: ")
    assert result.stderr.count("\n") == 1
    assert not (folder.parent / "report.html").exists()
    spoken = patronage("report", folder, "--json")
    assert spoken.returncode == 1
    assert '"verified": false' in spoken.stdout


def test_the_command_writes_beside_the_ledger_and_leaves_other_files_alone(
    scenarios: Scenarios, ledger_of: Ledgers
) -> None:
    folder = ledger_of(scenarios["healthy"])
    first = patronage("report", folder)
    page = folder.parent / "report.html"
    assert (first.returncode, first.stdout.strip()) == (0, str(page.resolve()))
    assert page.read_bytes() == render(read_report(folder))
    assert patronage("report", folder, "--json").returncode == 0, "an earlier report is replaced"
    notes = folder.parent / "notes.html"
    notes.write_text("mine")
    refused = patronage("report", folder, "--out", notes)
    assert refused.returncode == 2
    assert "another file" in refused.stderr
    assert notes.read_text() == "mine"


def test_no_report_is_written_into_the_ledger_or_where_there_is_no_folder(
    scenarios: Scenarios, ledger_of: Ledgers, tmp_path: Path
) -> None:
    folder = ledger_of(scenarios["open"])
    before = sorted(folder.rglob("*"))
    inside = patronage("report", folder, "--out", folder / "report.html")
    assert inside.returncode == 2
    assert sorted(folder.rglob("*")) == before
    with pytest.raises(UnavailableError):
        save(read_report(folder), tmp_path / "missing" / "report.html")
    nowhere = patronage("report", tmp_path / "nothing")
    assert nowhere.returncode == patronage("verify", tmp_path / "nothing").returncode != 0


@given(amount=st.integers(-(10**30), 10**30), exponent=st.integers(0, 4))
def test_money_is_shown_to_the_unit_whatever_its_size(amount: int, exponent: int) -> None:
    terms = PayoutTerms(
        policy="gated",
        currency="JPY",
        exponent=exponent,
        minor_unit="declared",
        budget=0,
        max_detectable_percent=100,
    )
    shown, currency = money(amount, terms).split("\u00a0")
    assert currency == "JPY"
    plain = shown.replace(THIN, "").replace("\u2212", "-")
    whole, _, minor = plain.partition(".")
    assert len(minor) == exponent
    assert int(whole + minor) == amount


@given(whole=st.integers(1, 10**24), data=st.data())
def test_parts_of_an_amount_are_rounded_in_integers(whole: int, data: st.DataObject) -> None:
    amount = data.draw(st.integers(0, whole))
    tenths = int(part_of(amount, whole).replace(f"{THIN}%", "").replace(".", "").replace(THIN, ""))
    assert abs(2 * tenths * whole - 2000 * amount) <= whole


@given(number=st.floats(-1e6, 1e6), places=st.integers(0, 6))
def test_a_signed_number_reads_back_and_zero_has_no_sign(number: float, places: int) -> None:
    text = signed(number, places).replace(THIN, "").replace("\u2212", "-")
    assert float(text) == pytest.approx(number, abs=0.5 * 10.0**-places + 1e-9 * abs(number))
    if float(text) == 0:
        assert text[0] == "0"
    else:
        assert text[0] == ("+" if number > 0 else "-")


@given(number=st.floats(1e-6, 1e3))
def test_places_show_as_many_digits_as_were_asked_for(number: float) -> None:
    places = places_for([number], digits=3, least=0)
    assert float(f"{number:.{places}f}") == pytest.approx(number, rel=0.006)


def test_text_in_markup_is_escaped_and_markup_is_not() -> None:
    assert tag("p", "a < b", Markup("<br>"), title='"') == '<p title="&quot;">a &lt; b<br></p>'
    assert tag("p", "x\u0000y\u2066z", None, hidden=True, id=None) == "<p hidden>x\ufffdy\ufffdz</p>"
