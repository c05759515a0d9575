"""nginx with the nchan module, which keeps messages in its own memory."""

from __future__ import annotations

from pathlib import Path

from bench.peers.installed import EVENT, NGINX, lacking, said_by
from bench.peers.peer import (
    HEARTBEAT,
    Dialect,
    Peer,
    Post,
    Running,
    Workplace,
    free_port,
    wait_for_port,
)

_NGINX = NGINX / "usr" / "sbin" / "nginx"
_MODULE = NGINX / "usr" / "lib" / "nginx" / "modules" / "ngx_nchan_module.so"

_CONFIGURATION = """
load_module {module};
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr error;
events {{ worker_connections 65536; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    keepalive_requests 100000000;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location = /ws {{
            nchan_subscriber websocket;
            nchan_channel_id "user:$arg_user" "all";
            nchan_subscriber_first_message newest;
            nchan_websocket_ping_interval {heartbeat}s;
        }}
        location = /publish {{
            nchan_publisher http;
            nchan_channel_id "$arg_to";
            nchan_message_buffer_length 100;
            nchan_message_timeout 24h;
        }}
    }}
}}
"""


class Nchan(Peer):
    """One subscriber location with two channels. Nobody is authenticated; no engine is used."""

    name = "nchan"
    label = "nchan (nginx, in memory)"
    authenticates = False
    stores = False  # its buffer is the process's own shared memory, and dies with it

    def missing(self) -> str | None:
        gone = lacking(_NGINX) or lacking(_MODULE)
        # Whatever its configuration says, nginx with this module wants its compiled-in folder too.
        return gone or (None if Path("/var/lib/nginx").is_dir() else "there is no /var/lib/nginx")

    def version(self) -> str:
        nginx = said_by(str(_NGINX), "-v").rpartition("/")[2]
        return f"nchan {(NGINX / 'nchan.version').read_text().strip()}, nginx {nginx}"

    def start(self, workplace: Workplace) -> Running:
        port = free_port()
        configuration = workplace.directory / "nginx.conf"
        configuration.write_text(
            _CONFIGURATION.format(
                module=_MODULE, folder=workplace.directory, port=port, heartbeat=HEARTBEAT
            )
        )
        process = workplace.spawn(
            [
                *(str(_NGINX), "-e", "stderr", "-p", str(workplace.directory)),
                *("-c", str(configuration)),
            ]
        )
        wait_for_port(port, process)
        return Running([process.pid], port, port)

    def dialect(self) -> Dialect:
        return Dialect(["GET /ws?user={user} HTTP/1.1"])

    def post_to_user(self) -> Post:
        return _post("user:{user}")

    def post_to_all(self, events: int = 1) -> Post | None:
        return _post("all") if events == 1 else None


def _post(to: str) -> Post:
    # The body is the message; the answer tells the channel's state in the form that is asked for.
    head = [f"POST /publish?to={to} HTTP/1.1", "Content-Type: application/json"]
    return Post([*head, "Accept: text/json"], EVENT)
