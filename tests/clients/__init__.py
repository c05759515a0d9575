"""The client libraries, against real services."""
