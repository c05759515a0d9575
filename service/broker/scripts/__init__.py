"""The Lua scripts, as text and by the digest under which the engine knows them."""

from __future__ import annotations

import hashlib
from importlib import resources
from typing import NamedTuple


class Script(NamedTuple):
    """A script's source and its SHA-1, as EVALSHA wants it."""

    source: bytes
    sha: bytes


def _load(*names: str) -> Script:
    package = resources.files(__name__)
    source = b"".join(package.joinpath(name).read_bytes() for name in names)
    return Script(source, hashlib.sha1(source, usedforsecurity=False).hexdigest().encode())


PUBLISH = _load("epoch.lua", "publish.lua")
READ = _load("epoch.lua", "read.lua")
PROBE = _load("probe.lua")
