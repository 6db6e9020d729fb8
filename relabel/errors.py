"""Everything that relabel raises on purpose.

RelabelError                what a caller may catch; the command line prints it and exits with 2
├── ConfigError             a config, prompt or argument that cannot be used
├── InputError              a source that cannot be used
├── Unfinished              a run that is not complete, where only a complete one will do (exit code 1)
├── LedgerError             a ledger that cannot be used: locked, of a newer version, on a full disk
│   └── Damaged             a ledger file that is not as it was written
└── ClientError             a server that cannot be used
    ├── RunStopped          no request of this run can be answered: wrong key, unknown model, no server
    └── Unanswered          this request got no reply after all its attempts; the run goes on

Each message says what was found, what was expected, and what to do next.
"""

from __future__ import annotations

from pathlib import Path

from relabel.text import pasteable


class RelabelError(Exception):
    """The base of all errors raised on purpose."""


class ConfigError(RelabelError):
    """A config, prompt or argument that cannot be used."""


class InputError(RelabelError):
    """A source that cannot be used."""


class Unfinished(RelabelError):
    """Some candidates wait for a reply, so there is no cleaned set yet."""


class LedgerError(RelabelError):
    """A ledger that cannot be used: locked, of a newer version, on a full disk."""


class Damaged(LedgerError):
    """A ledger file that is not as it was written."""

    def __init__(self, path: Path, found: str) -> None:
        super().__init__(
            f"{path}: {found}. `{pasteable('relabel', 'verify', '--salvage', path.parent)}` keeps what can be read; "
            "or restore a copy of the file."
        )
        self.found = found


class ClientError(RelabelError):
    """A server that cannot be used."""


class RunStopped(ClientError):
    """No request of this run can be answered, so it stops: a wrong key, an unknown model, no server."""


class Unanswered(ClientError):
    """One request got no reply after all its attempts."""
