"""Our environments in other people's frameworks: an Inspect task and a verifiers taskset. Only text environments; no memories.

Each module needs the framework it is for and is imported by nothing else in the package.
"""
