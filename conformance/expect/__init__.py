"""The expected failures of a port: a TOML file beside it of what is known to be wrong, and who tracks it.

`read` and `apply` forgive what it expects and complain of whatever in it is not so, `write` makes or updates it.

What comes back is compared in `judge`; right answers are in `oracle`. Start with `manifest.py`.
"""

from conformance.expect.edit import check, write
from conformance.expect.manifest import STATUSES, Expect, Judged, ManifestError, apply, read

__all__ = ["STATUSES", "Expect", "Judged", "ManifestError", "apply", "check", "read", "write"]
