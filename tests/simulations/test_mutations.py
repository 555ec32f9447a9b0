"""No change of a published byte or line goes unnoticed, but for cosignatures beyond the quorum."""

from pathlib import Path

import pytest

from patronage_simulations.mutations import mutate_all


@pytest.mark.slow
def test_every_change_is_refused_or_provably_inert(tmp_path: Path) -> None:
    tallies = mutate_all(tmp_path, entries=2)
    assert {name: tally.wrong for name, tally in tallies.items() if tally.wrong} == {}
    with_inert = {name for name, tally in tallies.items() if tally.inert}
    assert with_inert == {"checkpoint", "a receipt (.tlog-proof)"}
    assert all(tally.tried["bytes flipped"] > 50 for tally in tallies.values())
