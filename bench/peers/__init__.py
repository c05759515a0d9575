"""The systems that Herald is measured against, each run as its own documentation shows it."""

from __future__ import annotations

from bench.peers.centrifugo import Centrifugo
from bench.peers.channels import Channels
from bench.peers.fastapi_pubsub import FastapiPubsub
from bench.peers.mercure import Mercure
from bench.peers.nchan import Nchan
from bench.peers.peer import Peer
from bench.peers.python_socketio import PythonSocketio
from bench.peers.socketio import Socketio
from bench.peers.ws import Ws

ALL: tuple[Peer, ...] = (
    FastapiPubsub(),
    Channels(),
    PythonSocketio(),
    Socketio(),
    Ws(),
    Nchan(),
    Centrifugo(),
    Mercure(),
)
"""Every peer, in the order of the tables: Python, Node, C, Go."""

__all__ = ["ALL", "Peer"]
