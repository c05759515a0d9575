"""The Lua scripts, as text and by the digest under which the engine knows them."""

from __future__ import annotations

import hashlib
from importlib import resources
from typing import NamedTuple


class Script(NamedTuple):
    """A script's source and its SHA-1, as EVALSHA wants it."""

    source: bytes
    sha: bytes


def _load(name: str) -> Script:
    package = resources.files(__name__)
    source = b"".join(package.joinpath(part).read_bytes() for part in ("epoch.lua", name))
    return Script(source, hashlib.sha1(source, usedforsecurity=False).hexdigest().encode())


PUBLISH = _load("publish.lua")
READ = _load("read.lua")
