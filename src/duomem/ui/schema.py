"""The OpenAPI document of the page's endpoints, for the types of its script (`make ui` writes frontend/openapi.json).

In: nothing. Out: JSON on stdout, the same bytes for the same endpoints, without the version of the package.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path


def document() -> str:
    """The document as canonical text."""
    from duomem.ui.app import application

    with tempfile.TemporaryDirectory() as empty:
        found = application(Path(empty), "").openapi()
    found["info"]["version"] = ""
    return json.dumps(found, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    print(document(), end="")
