"""Layers for networks that are trained through the CRF."""

from .crf_as_rnn import CRFasRNN

__all__ = ["CRFasRNN"]
