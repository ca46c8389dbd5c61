"""The loop of a format's `read`: rows to records, one after the other; what is wrong with one stops none of the others.

In: rows and what makes records of one. Out: the records, and a `Bad` for each row that was one already or that is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from duomem.logs import Bad, BadField, Record, Row


def each(rows: Iterable[Row | Bad], records: Callable[[Row], Iterable[Record]]) -> Iterator[Record | Bad]:
    for row in rows:
        if isinstance(row, Bad):
            yield row
            continue
        try:
            yield from records(row)
        except BadField as error:
            yield Bad(row.place, error.field, error.why)
