"""Checkpoints of every family in circulation, and the package's own."""

from __future__ import annotations

from .files import CheckpointError
from .loading import convert, load, load_backbone
from .native import save

__all__ = ["CheckpointError", "convert", "load", "load_backbone", "save"]
