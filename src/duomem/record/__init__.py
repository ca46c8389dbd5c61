"""Recording a user's own agent: a proxy between it and its endpoint, and what becomes of the log.

`proxy` passes requests on and journals them (`store`, `redact`), `episodes` puts exchanges in order, `trajectories` makes what
memories and adapters are made of. In: an agent whose base URL was changed. Out: `RUN/record.sqlite`. Not here: other logs.
"""
