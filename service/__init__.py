"""Herald: a notification push service. Lossless events from a POST to every socket of a user."""

__version__ = "0.1.0"
