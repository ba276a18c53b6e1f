"""What can be wrong with a command line, and with a file that it names."""

from __future__ import annotations


class UsageError(Exception):
    """The command line makes no sense: exit code 2 before anything is read or written."""


class FileError(Exception):
    """One file cannot be used: the others go on, the exit code will be 1."""
