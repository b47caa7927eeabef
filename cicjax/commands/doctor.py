"""`cicjax doctor`: what a machine and a run's folder have to say for themselves."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from cicjax.errors import CicjaxError, Corrupted, printable

if TYPE_CHECKING:
    from cicjax.runs.health import Finding

WIDTH = 11


class Unwell(CicjaxError):
    """The worst of what was found."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.exit_code = code


@dataclass(frozen=True)
class Doctor:
    """Look at versions, devices, memory, disk, cache and SQLite, and at a run's folder: configuration, lock,
    steps, digests; at an agent's home as `cicjax agent verify` does.

    ok: nothing to do; look: worth a look; bad: a command would fail, and with which exit code. Ends with the
    largest of these codes. Changes nothing.

    Example: cicjax doctor runs/mine
    """

    run_folder: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")] = None
    """A folder of `cicjax train` or `repro`, or an agent's home; without one, the machine alone."""
    json: bool = False
    """One object: code, and findings with check, word, code, text."""

    def run(self) -> None:
        from cicjax.runs import health

        findings = list(health.machine(self.run_folder or Path()))
        if self.run_folder is not None:
            findings += _agent(self.run_folder) or health.run(self.run_folder)
        worst = max(findings, key=lambda finding: finding.code)
        if self.json:
            records = [
                {"check": each.check, "word": each.word, "code": each.code, "text": each.text}
                for each in findings
            ]
            print(json.dumps({"code": worst.code, "findings": records}, indent=1))
        else:
            for each in findings:
                print(printable(f"{each.word:<5}{each.check:<{WIDTH}} {' '.join(each.text.split())}"))
        if worst.code:
            raise Unwell(f"{worst.check}: {worst.text}", worst.code)


def _agent(folder: Path) -> "list[Finding]":
    """What an agent's home is found to be; nothing where the folder is none."""
    from cicjax.agent import store, whole
    from cicjax.runs.health import Finding

    if not (folder / store.NAME).exists():
        return []
    findings = [Finding("agent", told, Corrupted.exit_code) for told in whole.verify(folder)]
    return findings or [Finding("agent", f"{folder}: every byte is as it was written")]
