"""What a run waits for: a slow destination is reported, a slow source is not."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from llmstack.ferrying import layer_stream
from llmstack.ferrying.layer_stream import TransferTime


class Clock:
    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("source", "destination", "limited"),
    [(0.1, 2.0, True), (2.0, 0.1, False), (1.0, 1.0, False), (0.0, 0.1, False)],
)
def test_the_side_that_takes_most_of_the_time(
    monkeypatch: pytest.MonkeyPatch, source: float, destination: float, *, limited: bool
):
    clock = Clock()
    monkeypatch.setattr(layer_stream, "time", clock)

    def read() -> Generator[bytes, None, None]:
        for _ in range(10):
            clock.now += source
            yield b"x"

    waits = TransferTime()
    for _ in waits.measure(read()):
        clock.now += destination
    assert waits.source == pytest.approx(10 * source)
    assert waits.destination == pytest.approx(10 * destination)
    assert waits.is_limited_by_destination is limited
