"""A second description of a round, written from docs/rounds.md and section by section as naive as can be.

It knows names and sets alone: no signatures, no trees, no bytes. An event is a dictionary of what an entry
says and of what is wrong with it. `broken` gives every clause that the event breaks, `take` what follows when
it breaks none. Nothing here is shared with the state machine that it is compared with.
"""

from typing import Any

__all__ = ["Event", "RoundReference"]

Event = dict[str, Any]

ENTRIES = {
    "open": {"accept", "decline", "commit", "forfeit", "close"},
    "closed": {"witness", "abort"},
    "revealing": {"reveal", "forfeit"},
    "intake": {"intake"},
    "scoring": {"evaluate", "abort"},
    "valuing": {"value"},
    "paying": {"pay", "refund"},
    "settled": {"ask", "show", "final"},
    "final": {"witness"},
}

NOT_PLAYING = {
    "declined": "declined",
    "forfeited": "forfeited",
    "rejected": "rejected",
    "committed": "refunded",
    "admitted": "refunded",
}


class RoundReference:
    """Where a round stands, in words."""

    def __init__(self, owners: list[str], terms: dict[str, Any], opened: int) -> None:
        self.terms = terms
        self.phase = "open"
        self.time = opened
        self.entries = 1
        self.status = dict.fromkeys(owners, "invited")
        self.closed_at = 0
        self.aborted = ""
        self.cosigned = 0
        self.valued = False
        self.to_pay: list[Event] = []
        self.paid: dict[str, int] = {}
        self.settled_at = 0
        self.asked: dict[str, set[int]] = {}
        self.shown: set[int] = set()
        self.clusters: tuple[int, ...] = ()

    def who(self, *status: str) -> list[str]:
        return sorted(owner for owner, one in self.status.items() if one in status)

    def broken(self, event: Event) -> set[str]:
        """The clauses that an event breaks, of which the state machine names one; none if it may be taken."""
        kind = event["kind"]
        if kind not in ENTRIES[self.phase]:
            return {"open §first" if self.phase == "final" else f"{kind} §phase"}
        found = getattr(self, f"_{kind}")(event)
        if event["time"] < self.time:
            found.add(f"{kind} §clock")
        return found

    def take(self, event: Event) -> None:
        """What follows from an event that breaks nothing."""
        self.time = event["time"]
        self.entries += 1
        getattr(self, f"_after_{event['kind']}")(event)
        if self.phase == "revealing" and not self.who("committed"):
            self.phase = "intake"
        if self.phase == "intake" and not self.who("revealed"):
            self.phase = "scoring"

    # What owners say.

    def _said(self, event: Event) -> set[str]:
        if event["owner"] not in self.status:
            return {"open §owners"}
        found = set()
        if event["signer"] != event["owner"]:
            found.add("signature")
        if event["about"] != "this round":
            found.add("statement")
        return found

    def _may(self, event: Event, *status: str) -> set[str]:
        owner = event["owner"]
        if owner not in self.status:
            return {"open §owners"}
        return set() if self.status[owner] in status else {f"{event['kind']} §standing"}

    def _by(self, event: Event, deadline: int) -> set[str]:
        return {f"{event['kind']} §deadline"} if event["time"] > deadline else set()

    def _accept(self, event: Event) -> set[str]:
        return self._said(event) | self._may(event, "invited") | self._by(event, self.terms["accept"])

    def _after_accept(self, event: Event) -> None:
        self.status[event["owner"]] = "accepted"

    def _decline(self, event: Event) -> set[str]:
        return self._said(event) | self._may(event, "invited")

    def _after_decline(self, event: Event) -> None:
        self.status[event["owner"]] = "declined"

    def _commit(self, event: Event) -> set[str]:
        return self._said(event) | self._may(event, "accepted") | self._by(event, self.terms["commit"])

    def _after_commit(self, event: Event) -> None:
        self.status[event["owner"]] = "committed"

    def _reveal(self, event: Event) -> set[str]:
        found = self._said(event) | self._may(event, "committed") | self._by(event, self.terms["reveal"])
        if not event["opens"]:
            found.add("reveal §opening")
        if event["size"] > self.terms["most_bytes"]:
            found.add("reveal §size")
        return found

    def _after_reveal(self, event: Event) -> None:
        self.status[event["owner"]] = "revealed"

    def _ask(self, event: Event) -> set[str]:
        pairs, last = event["pairs"], self.settled_at + self.terms["window"] if self.valued else 0
        found = self._said(event) | self._by(event, last)
        if event["owner"] in self.asked:
            found.add("ask §standing")
        if len(pairs) > self.terms["questions"] or list(pairs) != sorted(set(pairs)):
            found.add("ask §pairs")
        if max(pairs, default=0) >= self.terms["pairs"]:
            found.add("ask §pairs")
        return found

    def _after_ask(self, event: Event) -> None:
        self.asked[event["owner"]] = set(event["pairs"])

    # What the operator says of owners.

    def _forfeit(self, event: Event) -> set[str]:
        found = self._may(event, "invited", "accepted", "committed")
        if found:
            return found
        status = self.status[event["owner"]]
        owed = {"invited": "accept", "accepted": "commit", "committed": "reveal"}[status]
        if event["time"] <= self.terms[owed]:
            found.add("forfeit §deadline")
        if status == "committed" and self.phase == "open":
            found.add("forfeit §close")
        return found

    def _after_forfeit(self, event: Event) -> None:
        self.status[event["owner"]] = "forfeited"

    def _intake(self, event: Event) -> set[str]:
        found = self._may(event, "revealed")
        if event["accepted"] == (event["reason"] != ""):
            found.add("intake §reason")
        if event["accepted"] and (event["norm"] is None or event["norm"] > self.terms["most_norm"]):
            found.add("intake §norm")
        if event["accepted"] and event["cosine"] >= self.terms["copy"]:
            found.add("intake §copy")
        return found

    def _after_intake(self, event: Event) -> None:
        self.status[event["owner"]] = "admitted" if event["accepted"] else "rejected"

    # What the operator says of the round.

    def _close(self, event: Event) -> set[str]:
        found = {"close §waiting"} if self.who("invited", "accepted") else set()
        committed = self.who("committed")
        if event["count"] != len(committed) or event["list"] != committed:
            found.add("close §list")
        return found

    def _after_close(self, event: Event) -> None:
        self.phase, self.closed_at = "closed", event["time"]

    def _witness(self, event: Event) -> set[str]:
        if self.phase == "final" and (self.cosigned == 2 or self.aborted == "witnesses"):
            return {"witness §standing"}
        found = self._by(event, self.closed_at + self.terms["cosign"]) if self.phase == "closed" else set()
        if event["head"] != self.entries:
            found.add("witness §head")
        if len(set(event["witnesses"]) & set(self.status)) < self.terms["quorum"]:
            found.add("witness §quorum")
        if event["witnesses"] != sorted(set(event["witnesses"]) & set(self.status)):
            found.add("witness §lines")
        return found

    def _after_witness(self, _event: Event) -> None:
        self.cosigned += 1
        if self.phase == "closed":
            self.phase = "revealing"

    def _abort(self, event: Event) -> set[str]:
        found = set()
        if (event["reason"] == "witnesses") != (self.phase == "closed"):
            found.add("abort §reason")
        players = len(self.who("admitted"))
        if event["reason"] == "players" and players >= self.terms["players"]:
            found.add("abort §players")
        if event["reason"] != "witnesses" and event["count"] != players:
            found.add("abort §players")
        if event["reason"] == "rewards":
            found.add("abort §rewards")  # the games here are on margins
        if event["reason"] == "witnesses":
            if event["count"] >= self.terms["quorum"]:
                found.add("abort §witnesses")
            if event["time"] <= self.closed_at + self.terms["cosign"]:
                found.add("abort §deadline")
        return found

    def _after_abort(self, event: Event) -> None:
        self.aborted = event["reason"]
        self._settle()

    def _evaluate(self, event: Event) -> set[str]:
        players, found = self.who("admitted"), set()
        if len(players) < self.terms["players"]:
            found.add("evaluate §players")
        if event["players"] != players or event["wrong"]:
            found.add("evaluate §evidence")
        return found

    def _after_evaluate(self, event: Event) -> None:
        self.phase, self.clusters = "valuing", event["clusters"]

    def _value(self, event: Event) -> set[str]:
        same = event["players"] == self.who("admitted") and not event["wrong"]
        return set() if same else {"value §evidence"}

    def _after_value(self, _event: Event) -> None:
        self.valued = True
        self._settle()

    def _settle(self) -> None:
        """All players bring the same here, so each gets the same; nobody else gets anything, and says why."""
        self.phase = "paying"
        players = self.who("admitted") if self.valued else []
        for owner, status in sorted(self.status.items()):
            amount = self.terms["budget"] // len(players) if owner in players else 0
            reason = "share" if owner in players else NOT_PLAYING[status]
            self.to_pay.append({"kind": "pay", "owner": owner, "amount": amount, "reason": reason})
        if not players:
            self.to_pay.append({"kind": "refund", "amount": self.terms["budget"], "reason": "aborted"})

    def _pay(self, event: Event) -> set[str]:
        stated = {key: value for key, value in event.items() if key != "time"}
        return set() if stated == self.to_pay[0] else {f"{event['kind']} §settlement"}

    _refund = _pay

    def _after_pay(self, event: Event) -> None:
        self.to_pay.pop(0)
        self.paid[event.get("owner", "refund")] = event["amount"]
        if not self.to_pay:
            self.phase, self.settled_at = "settled", event["time"]

    _after_refund = _after_pay

    def _show(self, event: Event) -> set[str]:
        asked: set[int] = set().union(*self.asked.values())
        found = set() if event["pair"] in asked - self.shown else {"show §asked"}
        if event["wrong"]:
            found.add("show §root")
        prompts, clusters = self.terms["prompts"], self.clusters
        for other in self.shown:
            one_prompt = prompts[other] == prompts[event["pair"]]
            if clusters and one_prompt != (clusters[other] == clusters[event["pair"]]):
                found.add("show §prompt")
        return found

    def _after_show(self, event: Event) -> None:
        self.shown.add(event["pair"])

    def _final(self, event: Event) -> set[str]:
        found = set()
        if event["adapter"] != self.valued:
            found.add("final §adapter")
        open_window = self.valued and event["time"] <= self.settled_at + self.terms["window"]
        if open_window and len(self.asked) < len(self.status):
            found.add("final §window")
        if set().union(*self.asked.values()) - self.shown:
            found.add("final §shown")
        return found

    def _after_final(self, _event: Event) -> None:
        self.phase = "final"
