"""Faults against real processes, and books that are held against the guarantees.

books.py      what publishers and subscribers write down
checker.py    the guarantees, from the books alone; it knows nothing of Herald's inside
wire.py       clients of their own: of WebSockets, of streams, and of HTTP
actors.py     publishers and subscribers that go on whatever breaks
proxy.py      a TCP proxy that cuts, stalls, delays and dribbles
engines.py    engines to break: single, with replicas and sentinels, Cluster
partition.py  replicas and sentinels in a network that can be split in two
world.py      everything running, and one scenario played from start to verdict
gateways.py, engine_faults.py, network.py, clients.py   the scenarios
"""
