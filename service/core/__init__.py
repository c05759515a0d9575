"""The pure core: decisions only. No asyncio, clock, logging or I/O; `now` is an argument."""
