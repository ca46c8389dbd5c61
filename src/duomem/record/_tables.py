"""The tables of `record.sqlite`, one script per schema version. How such a file is opened: `duomem.sqlitefile`.

Content that repeats from request to request (messages, tools) is kept once, in `items`, by its hash.
"""

from __future__ import annotations

from duomem.sqlitefile import Form

_STEPS: tuple[tuple[str, ...], ...] = (
    (
        "CREATE TABLE meta(name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
        "CREATE TABLE items(hash TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
        """CREATE TABLE exchanges(
            id INTEGER PRIMARY KEY, episode TEXT NOT NULL, named TEXT NOT NULL, api TEXT NOT NULL, path TEXT NOT NULL,
            model TEXT NOT NULL, stream INTEGER NOT NULL, started REAL NOT NULL, request TEXT NOT NULL, messages TEXT NOT NULL,
            fresh INTEGER NOT NULL, tools TEXT NOT NULL, before TEXT NOT NULL, conversation TEXT NOT NULL, task TEXT NOT NULL,
            parent INTEGER REFERENCES exchanges(id), choice INTEGER NOT NULL, doubt INTEGER NOT NULL DEFAULT 0,
            gap TEXT NOT NULL, state TEXT NOT NULL, status INTEGER NOT NULL DEFAULT 0, reply TEXT NOT NULL DEFAULT '',
            answer TEXT NOT NULL DEFAULT '', reply_id TEXT NOT NULL DEFAULT '', delivered INTEGER NOT NULL DEFAULT 1,
            first_byte REAL NOT NULL DEFAULT 0, seconds REAL NOT NULL DEFAULT 0, error TEXT NOT NULL DEFAULT '')""",
        "CREATE INDEX exchange_episode ON exchanges(episode)",
        "CREATE INDEX exchange_before ON exchanges(before)",
        "CREATE INDEX exchange_parent ON exchanges(parent)",
        "CREATE INDEX exchange_reply ON exchanges(reply_id) WHERE reply_id != ''",
        "CREATE INDEX exchange_conversation ON exchanges(conversation) WHERE conversation != ''",
        "CREATE TABLE states(hash TEXT, exchange INTEGER REFERENCES exchanges(id), choice INTEGER)",
        "CREATE INDEX state_hash ON states(hash)",
        """CREATE TABLE outcomes(
            id INTEGER PRIMARY KEY, episode TEXT NOT NULL, won INTEGER NOT NULL, score REAL, note TEXT NOT NULL,
            source TEXT NOT NULL, at REAL NOT NULL)""",
        "CREATE INDEX outcome_episode ON outcomes(episode)",
    ),
    ("ALTER TABLE exchanges ADD COLUMN task_error TEXT NOT NULL DEFAULT ''",),
)

RECORDING = Form(
    "a recording",
    "Point to another run, or move the file away.",
    _STEPS,
    application=0x44754D52,  # "DuMR"
)
