"""The bundle: one signed folder (or zip) with all that a device needs to serve a student, and nothing that was decided against.

`write_bundle` makes one from a run, `open_bundle` checks one and gives typed access to its parts. In: a run, or a path and the
user's own trust. Out: a folder that is a Hugging Face repository too; a `Bundle`. Not here: engines and serving.
"""

from duomem.bundle.manifest import FORMAT, Base, Manifest, Member, Memories
from duomem.bundle.read import Bundle, open_bundle
from duomem.bundle.write import Options, write_bundle

__all__ = ["FORMAT", "Base", "Bundle", "Manifest", "Member", "Memories", "Options", "open_bundle", "write_bundle"]
