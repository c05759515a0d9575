"""The page's files, and the headers that they go out with."""

from __future__ import annotations

from pathlib import Path

from service.edge.answers import Answer

PREFIX = "/playground/"
_INDEX = "index.html"
_KINDS = {
    ".html": b"text/html; charset=utf-8",
    ".css": b"text/css; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".svg": b"image/svg+xml",
}
# Nothing is loaded from elsewhere, and nothing that is put into the page becomes a script.
_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = (
    (b"cache-control", b"no-cache"),
    (b"content-security-policy", _POLICY),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)


class Files:
    """The page and what it consists of, read once."""

    def __init__(self, folder: Path = Path(__file__).parent) -> None:
        self._answers = {
            "/" if file.name == _INDEX else PREFIX + file.name: Answer(
                200, _KINDS[file.suffix], file.read_bytes(), _HEADERS
            )
            for file in folder.iterdir()
            if file.suffix in _KINDS
        }

    def find(self, path: str) -> Answer | None:
        """The file of this path."""
        return self._answers.get(path)
