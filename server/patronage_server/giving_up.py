"""`patronage operator abort`: the end of a round whose pinned reward cannot score what the models wrote.

The manifest pins every reward, so one that fails on an answer cannot be mended within the round. What is left
is an entry that says so; the budget is refunded as after any abort (docs/rounds.md).
"""

from patronage_protocol.entries import Aborted
from patronage_protocol.rounds import Round
from patronage_server.book import Book
from patronage_server.clock import Clock, SystemClock
from patronage_server.home import OperatorHome

__all__ = ["give_up"]


def give_up(home: OperatorHome, clock: Clock | None = None) -> Round:
    """Abort a round that waits for a reward which cannot score; the round that is left pays nobody.

    Raises:
        LocalProtocolError: there is no round.
        RemoteProtocolError: it does not stand at scoring, or its game is not on rewards.
        UnavailableError: the ledger cannot be opened or written.
    """
    with home.open_ledger(home.manifest().origin) as ledger:
        book = Book(ledger, home.published)
        time = (clock or SystemClock()).now()
        book.record(Aborted(time=time, reason="rewards", count=len(book.state.players)))
        return book.state
