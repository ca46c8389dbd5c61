"""The page: `duomem ui runs/` shows run folders in a browser of this machine.

In: a folder of runs. Out: a server on the loopback address with typed JSON endpoints, live events and one page of built assets.
All it says comes from `duomem.browse`; all it changes (a memory's quarantine) goes through `duomem.curate`, after a token.
"""
