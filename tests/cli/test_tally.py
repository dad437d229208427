"""How far a command has got."""

from __future__ import annotations

from dugong.cli.tally import Tally


def test_transfers_are_known_while_they_are_under_way() -> None:
    tally = Tally(3)
    one, two = tally.begin("one"), tally.begin("two")
    assert tally.transfers() == [one, two]
    one.tell(5, 10)
    assert (one.done, one.size) == (5, 10)
    tally.end(one)
    assert [transfer.name for transfer in tally.transfers()] == ["two"]
    tally.end(one)
    tally.end(two)
    assert tally.transfers() == []
    assert (tally.count, tally.succeeded, tally.failed, tally.size) == (3, 0, 0, 0)
