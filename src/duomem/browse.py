"""What a run folder holds, for people to look at: the one place that the page and the terminal commands ask.

In: a folder of runs, the id of one, filters, refs of episodes. Out: the nouns of `_browse_types`, in pages. It only reads:
journals are opened read-only, also while another process writes them, and nothing in a run folder is made or changed. Edits of
banks are `duomem.curate`'s matter, harmless output that of whoever shows the text.

    runs = browse.find(Path("runs"))                      # tuple[RunRow, ...]
    run = browse.open_run(Path("runs"), "demo")           # Run; open_run(Path("runs/demo")) for a run folder itself
    browse.episodes(run, Filters(arm="memory", outcome="won", lost_in="none"), offset=0, limit=50)
    browse.compare(run, "17", "203")
"""

from __future__ import annotations

from duomem._browse_bundle import bundles as bundles
from duomem._browse_episodes import LONG as LONG
from duomem._browse_episodes import compare as compare
from duomem._browse_episodes import episode as episode
from duomem._browse_episodes import observation as observation
from duomem._browse_list import episodes as episodes
from duomem._browse_list import facets as facets
from duomem._browse_memories import change as change
from duomem._browse_memories import memories as memories
from duomem._browse_memories import memory as memory
from duomem._browse_report import decision as decision
from duomem._browse_runs import Run as Run
from duomem._browse_runs import find as find
from duomem._browse_runs import fingerprint as fingerprint
from duomem._browse_runs import open_run as open_run
from duomem._browse_runs import row as row
from duomem._browse_training import example as example
from duomem._browse_training import training as training
from duomem._browse_types import *  # noqa: F403  the nouns
