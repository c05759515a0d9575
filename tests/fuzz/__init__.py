"""Inputs that no client would send, many of them, and what must hold whatever comes.

amount.py     how many inputs, and from which seed
mutation.py   makes inputs from those of the corpus
reference.py  RFC 6455 once more, by itself: what a server must make of a client's bytes
replay.py     plays bytes on sockets, several at once, and keeps what the server said
peer.py       a client for one frame at a time
watch.py      what must hold: no crash, no hang, no error in the log, no growth of memory
corpus/       inputs to begin with, each played as it is too: what a client sends after the upgrade
              (frames) and on a new connection (requests); each file is named for what it holds
fuzz.mk       `make fuzz`

An input that fails is saved in `found/`; once it is understood, it belongs into the corpus.
"""
