"""Who may use the playground: a person at this machine, by a page of this very server.

Some other website is open in the same browser as a rule. It must not have tokens made or
connections cut by sending forms here (CSRF), nor by letting its own name lead here (DNS rebinding).
"""

from __future__ import annotations

import re
from ipaddress import ip_address

from service.edge.admission import sender
from service.edge.answers import ProblemError
from service.edge.asgi import Headers, find_header
from service.edge.body import check_content_type
from service.edge.origins import permits

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?", re.ASCII)
_EVERY_ADDRESS = ("0.0.0.0", "::")


def check_host(headers: Headers, configured: str) -> None:
    """Refuse a request that came by a name which others may have made to lead here.

    `configured`: the address that is listened on. Where that is every address of this machine, it
    may be called by any address: those lead nowhere else, as names do.

    Raises:
        ProblemError: 403.
    """
    if not _is_ours(find_header(headers, b"host") or "", configured.lower()):
        raise ProblemError(
            403,
            "The playground is for this machine: open it as http://127.0.0.1 or http://localhost "
            "with the port, or by the address that HERALD_HOST says.",
        )


def check_deed(headers: Headers) -> None:
    """Refuse a request to do something that no page of this server sent.

    Raises:
        ProblemError: 403, 415.
    """
    by = sender(headers)
    site = find_header(headers, b"sec-fetch-site")
    if site not in (None, "same-origin") or not permits(by, frozenset(), by_cookie=True):
        raise ProblemError(403, "Only the playground's own page may ask for this.")
    check_content_type(headers, "application/json")


def _is_ours(host: str, configured: str) -> bool:
    match = _HOST.fullmatch(host)
    if match is None:
        return False
    name = match[1].strip("[]").lower()
    if name in ("localhost", configured):
        return True
    try:
        address = ip_address(name)
    except ValueError:
        return False
    return address.is_loopback or configured in _EVERY_ADDRESS
