"""Errors of the file format: one class per broken rule, each message led by the clause it breaks.

base        what they share
content     what a checkpoint may hold, and the encodings
container   the bytes of a file, the manifest
folder      digests, folders, writing
delta       changes of a base
convert     foreign formats
"""

from formats.errors.base import FormatError as FormatError
from formats.errors.container import *  # noqa: F403 - every class of these files is part of this module
from formats.errors.content import *  # noqa: F403
from formats.errors.convert import *  # noqa: F403
from formats.errors.delta import *  # noqa: F403
from formats.errors.folder import *  # noqa: F403
