"""What is installed of the peers: `python -m bench.peers`. The last line names what is missing."""

from __future__ import annotations

from bench.peers import ALL


def main() -> None:
    gone: list[str] = []
    for peer in ALL:
        missing = peer.missing()
        print(f"{peer.name:<16} {f'missing: {missing}' if missing else peer.version()}")
        if missing:
            gone.append(peer.name)
    print(f"Not installed: {', '.join(gone)}." if gone else "All peers are installed.")


if __name__ == "__main__":
    main()
