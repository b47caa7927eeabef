"""One device, two threads: whoever answers lends it to whoever learns, a slice at a time.

The answering thread calls the slices, as the engine's `learn`: that gives the learning thread one turn and
comes back with the device when it is over. The learning thread works inside `turn`, ends a slice by `pause`,
and lets go of its turn altogether where it waits for something else (`elsewhere`). A turn that takes longer
than LIMIT, as one does that compiles a program or writes to a slow disk, goes on beside the answers.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LIMIT = 1.0  # seconds that answers wait for a turn to end


class Closed(Exception):
    """There will be no more turns: what was begun is left as a kill would leave it."""


class Slices:
    """Turns of a learning thread. `wake` is called when it wants one; while `held` it gets none."""

    def __init__(self, wake: Callable[[], None], *, limit: float = LIMIT) -> None:
        self._wake, self._limit = wake, limit
        self._changed = threading.Condition()
        self._wanted = self._given = self._closed = self._held = False
        self._hurried = 0

    # The answering thread

    def __call__(self) -> bool:
        """One slice; whether there was anything to do."""
        with self._changed:
            if self._given or not self._wanted or self._closed or (self._held and not self._hurried):
                return False
            self._given, self._wanted = True, False
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._given, self._limit)
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

    def hurry(self, by: int) -> None:
        """So many more are waiting for what is to be done, also while turns are held."""
        with self._changed:
            self._hurried += by
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
