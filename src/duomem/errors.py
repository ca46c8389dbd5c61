"""The errors that users meet.

DuomemError                    exit code 1
├── UsageError                 exit code 2: a wrong option, config key, component name, path
│   ├── ConfigError            a key or value in a config file; names the nearest real one
│   └── MissingExtra           a library that an extra would install
├── DataError                  exit code 3: games, banks, journals or adapters that cannot be used as they are
│   ├── LeakError              evaluation data where it must not be
│   └── MismatchError          an adapter, bank or layout made for something else
├── InfraError                 exit code 4: a model, disk or process failed; the episode is retried on resume
│   └── StoreError             the journal cannot be written: the command stops, what was recorded stays
└── Incomplete                 exit code 5: the command ended with work left; it says how to resume
    └── BudgetSpent            the run's limit of money or tokens leaves no room for another call

Every message names the thing, where it was found and what to do next. Tracebacks are for bugs.
"""

from __future__ import annotations


class DuomemError(Exception):
    """Base of every error that is the user's to solve."""

    exit_code = 1


class UsageError(DuomemError):
    exit_code = 2


class ConfigError(UsageError):
    pass


class MissingExtra(UsageError):
    """A library is missing; `extra` is the name to install."""

    def __init__(self, library: str, extra: str) -> None:
        super().__init__(f"{library} is not installed. Install it with: pip install 'duomem[{extra}]'")


class DataError(DuomemError):
    exit_code = 3


class LeakError(DataError):
    pass


class MismatchError(DataError):
    pass


class InfraError(DuomemError):
    exit_code = 4


class StoreError(InfraError):
    pass


class Incomplete(DuomemError):
    exit_code = 5


class BudgetSpent(Incomplete):
    pass
