"""The flags of every verb that computes: which of several hosts this process is."""

from dataclasses import dataclass, fields
from typing import Annotated

import tyro


@dataclass(frozen=True, kw_only=True)
class Together:
    """Where a TPU slice or Slurm starts the processes, nothing needs to be said."""

    num_processes: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Processes that run this same command together, one a host; 1: this one alone, whatever the machine
    says."""
    process_id: Annotated[int | None, tyro.conf.arg(metavar="I")] = None
    """Which of them this is, from 0 on."""
    coordinator_address: Annotated[str | None, tyro.conf.arg(metavar="HOST:PORT")] = None
    """Of process 0, where it listens for the others."""

    def join(self) -> None:
        """Meet the others, if there are any. Raises BadInput for numbers that do not fit together."""
        from cicjax.devices import hosts

        hosts.join(processes=self.num_processes, process=self.process_id, address=self.coordinator_address)


FLAGS = tuple(each.name for each in fields(Together))
