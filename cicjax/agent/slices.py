"""One device, two threads: whoever answers lends it to whoever learns, a slice at a time.

The answering thread calls the slices, as the engine's `learn`: that gives the learning thread one turn and
comes back with the device when it is over. The learning thread works inside `turn`, ends a slice by `pause`,
and lets go of its turn altogether where it waits for something else (`elsewhere`).
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Closed(Exception):
    """There will be no more turns: what was begun is left as a kill would leave it."""


class Slices:
    """Turns of a learning thread. `wake` is called when it wants one; while `held` it gets none."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._changed = threading.Condition()
        self._wanted = self._given = self._closed = self._held = False

    # The answering thread

    def __call__(self) -> bool:
        """One slice; whether there was anything to do."""
        with self._changed:
            if not self._wanted or self._held or self._closed:
                return False
            self._given = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._given)
            return True

    # The learning thread

    @contextmanager
    def turn(self) -> Iterator[None]:
        """With the device. Raises Closed where there are no more turns."""
        self._take()
        try:
            yield
        finally:
            self._give_back()

    @contextmanager
    def elsewhere(self) -> Iterator[None]:
        """Without it, inside a turn."""
        self._give_back()
        try:
            yield
        finally:
            self._take()

    def pause(self) -> None:
        """The end of a slice, and the beginning of the next."""
        with self.elsewhere():
            pass

    def _take(self) -> None:
        with self._changed:
            self._wanted = True
        self._wake()
        with self._changed:
            self._changed.wait_for(lambda: self._given or self._closed)
            self._wanted = False
            if not self._given:
                raise Closed

    def _give_back(self) -> None:
        with self._changed:
            self._given = False
            self._changed.notify_all()

    # Any thread

    def hold(self, held: bool) -> None:
        """Give no turns, or give them again."""
        with self._changed:
            self._held = held
        self._wake()

    @property
    def held(self) -> bool:
        """Whether no turns are given."""
        return self._held

    def close(self) -> None:
        """Give no turns any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
