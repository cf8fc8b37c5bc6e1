"""The expected failures of a port: a TOML file beside it lists known failures and the issues that track them.

`read` loads it. `apply` forgives the failures that it expects, and returns a complaint for each entry that does not
hold. `write` makes or updates it.

Answers are compared in `judge`; expected answers are in `oracle`. Start with `manifest.py`.
"""

from conformance.expect.edit import check, write
from conformance.expect.manifest import STATUSES, Expect, Judged, ManifestError, apply, read

__all__ = ["STATUSES", "Expect", "Judged", "ManifestError", "apply", "check", "read", "write"]
