"""What the tests drive Herald with: real engines, real processes, real clients."""
