"""Who is connected here: channels, their members, and everything that happens to a connection."""
