"""Which version is in which slot of a bank, and how many answers each has under way: a version stays where it
is until its last answer has ended."""

from collections.abc import Iterable
from dataclasses import dataclass

from cicjax.errors import BadInput
from cicjax.sampling.request import BASE, Full


@dataclass
class _Slot:
    version: int | None = None
    users: int = 0
    dropped: bool = False
    used: int = 0  # the newest of all uses, to see which slot was left alone longest


class Slots:
    """The slots of a bank; whoever uses it holds the lock."""

    def __init__(self, count: int) -> None:
        self._slots, self._uses = [_Slot() for _ in range(count)], 0

    @property
    def versions(self) -> tuple[int, ...]:
        """The versions that may be asked."""
        return tuple(each.version for each in self._slots if each.version is not None and not each.dropped)

    def place(self, version: int) -> int | None:
        """A slot for a version, None where it has one. Raises Full where every slot answers somebody."""
        for slot in self._slots:
            if slot.version == version:
                slot.dropped = False
                self._use(slot)
                return None
        free = [slot for slot in self._slots if not slot.users]
        if not free:
            raise Full(f"all {len(self._slots)} versions of the bank are answering somebody; try again")
        chosen = min(free, key=lambda slot: (slot.version is not None and not slot.dropped, slot.used))
        chosen.version, chosen.dropped = version, False
        self._use(chosen)
        return self._slots.index(chosen)

    def drop(self, version: int) -> None:
        """Let nobody ask a version any more."""
        for slot in self._slots:
            slot.dropped = slot.dropped or slot.version == version

    def enter(self, version: int | None) -> int:
        """The slot that an answer reads, from now until it leaves; -1 for the bare base. Raises BadInput for
        a version that is not here."""
        if version is BASE:
            return -1
        for number, slot in enumerate(self._slots):
            if slot.version == version and not slot.dropped:
                slot.users += 1
                self._use(slot)
                return number
        raise BadInput(f"version {version} is not loaded; there are {_named(self.versions)}")

    def leave(self, number: int) -> None:
        """An answer has ended."""
        if number >= 0:
            self._slots[number].users -= 1

    def _use(self, slot: _Slot) -> None:
        self._uses += 1
        slot.used = self._uses


def _named(versions: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(versions))) or "none"
