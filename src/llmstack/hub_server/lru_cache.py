"""What was read, kept by what it is of as long as there is room: read once however many ask at a time."""

from __future__ import annotations

import threading
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Cache(Generic[K, V]):
    """Keeps values that weigh `limit` in all, the last one whatever its weight; safe in threads.

    What was not asked for longest goes first.
    """

    def __init__(self, limit: int, weigh: Callable[[V], int]) -> None:
        self._limit = limit
        self._weigh = weigh
        self._kept: OrderedDict[K, V] = OrderedDict()
        self._weight = 0
        self._lock = threading.Lock()
        self._reading: defaultdict[K, threading.Lock] = defaultdict(threading.Lock)

    def get(self, key: K, read: Callable[[], V]) -> V:
        """Return the value of a key, by `read` where it is not kept; raises what reading raises."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
            turn = self._reading[key]
        with turn:
            with self._lock:
                if key in self._kept:
                    return self._kept[key]
            try:
                value = read()
                self.put(key, value)
                return value
            finally:
                with self._lock:
                    self._reading.pop(key, None)

    def put(self, key: K, value: V) -> None:
        """Keep a value."""
        with self._lock:
            if key not in self._kept:
                self._kept[key] = value
                self._weight += self._weigh(value)
            while self._weight > self._limit and len(self._kept) > 1:
                _, oldest = self._kept.popitem(last=False)
                self._weight -= self._weigh(oldest)
