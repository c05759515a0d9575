"""A client process of its own, to be stopped: connects, says so on standard output, and waits."""

from __future__ import annotations

import asyncio
import sys

from websockets.asyncio.client import connect


async def main(url: str, token: str) -> None:
    headers = {"authorization": f"Bearer {token}"}
    async with connect(
        url, additional_headers=headers, compression=None, proxy=None, ping_interval=None
    ) as socket:
        async for message in socket:
            print(str(message)[:20], flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2]))
