"""The name under which verifiers finds our games: `vf-eval duomem-games`. All of it is in `duomem.offer.verifiers`.

verifiers takes the id of a taskset as the name of a module at the top level; this one is there for that, and holds nothing.
"""

from duomem.offer.verifiers import Chat, GameEnv, GameTaskset

__all__ = ["Chat", "GameEnv", "GameTaskset"]
