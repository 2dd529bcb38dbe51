"""sepstream: separate sound while it is played."""

__version__ = "0.1.0"
