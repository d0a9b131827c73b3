"""A weighted LRU cache; concurrent misses of one key load it once."""

from __future__ import annotations

import threading
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Cache(Generic[K, V]):
    """Keeps the most recently used values up to a total weight of `limit`, at least one; thread-safe."""

    def __init__(self, limit: int, weigh: Callable[[V], int]) -> None:
        self._limit = limit
        self._weigh = weigh
        self._values: OrderedDict[K, V] = OrderedDict()
        self._weight = 0
        self._lock = threading.Lock()
        self._loading: defaultdict[K, threading.Lock] = defaultdict(threading.Lock)

    def get(self, key: K, load: Callable[[], V]) -> V:
        """Return the value of a key, loaded on a miss; raises what `load` raises."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
            loading = self._loading[key]
        with loading:
            with self._lock:
                if key in self._values:
                    return self._values[key]
            try:
                value = load()
                self.put(key, value)
                return value
            finally:
                with self._lock:
                    self._loading.pop(key, None)

    def find(self, key: K) -> V | None:
        """Return the value of a key, which counts as a use; None on a miss."""
        with self._lock:
            if key not in self._values:
                return None
            self._values.move_to_end(key)
            return self._values[key]

    def peek(self, key: K) -> V | None:
        """Return the value of a key, which does not count as a use; None on a miss."""
        with self._lock:
            return self._values.get(key)

    def put(self, key: K, value: V) -> None:
        """Add a value."""
        with self._lock:
            if key not in self._values:
                self._values[key] = value
                self._weight += self._weigh(value)
            while self._weight > self._limit and len(self._values) > 1:
                _, oldest = self._values.popitem(last=False)
                self._weight -= self._weigh(oldest)
