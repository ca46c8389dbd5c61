"""The tables of a journal, one script per schema version. How such a file is opened: `duomem.sqlitefile`."""

from __future__ import annotations

from duomem.sqlitefile import Form

_STEPS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE episodes(
            id INTEGER PRIMARY KEY, phase TEXT NOT NULL, task_id TEXT NOT NULL, attempt INTEGER NOT NULL, try INTEGER NOT NULL,
            task TEXT NOT NULL, goal TEXT NOT NULL, scene TEXT NOT NULL, prompt TEXT NOT NULL, shown TEXT NOT NULL,
            origin TEXT NOT NULL, stop TEXT, error TEXT NOT NULL DEFAULT '', seconds REAL NOT NULL DEFAULT 0, content_hash TEXT,
            UNIQUE(phase, task_id, attempt, try))""",
        """CREATE TABLE turns(
            episode INTEGER NOT NULL REFERENCES episodes(id), idx INTEGER NOT NULL, reply TEXT NOT NULL, call TEXT,
            repaired INTEGER NOT NULL, observation TEXT, valid INTEGER, PRIMARY KEY(episode, idx)) WITHOUT ROWID""",
    ),
    (
        "ALTER TABLE turns ADD COLUMN recalled TEXT NOT NULL DEFAULT ''",
        """CREATE TABLE failures(
            episode INTEGER NOT NULL REFERENCES episodes(id), turn INTEGER NOT NULL,
            stop TEXT NOT NULL, error TEXT NOT NULL)""",
    ),
    ("ALTER TABLE turns ADD COLUMN results TEXT",),
    ("ALTER TABLE episodes ADD COLUMN tools TEXT NOT NULL DEFAULT '[]'",),
    ("CREATE INDEX episodes_by_end ON episodes(phase, stop, task_id)",),  # counts and filters read it alone, not the prompts
)

JOURNAL = Form(
    "a journal",
    "Point to a run directory, or move the file away.",
    _STEPS,
    tables=frozenset({"episodes", "turns"}),
    pragmas=("foreign_keys = ON",),
)
