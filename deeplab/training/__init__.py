"""Training: ``deeplab train config.toml``, or from Python.

settings = load_settings("camvid_deeplabv3plus_mobilenetv2", ["data.root=data/camvid"])
outcome = train(settings, "runs/camvid")
"""

from __future__ import annotations

from .settings import Settings, SettingsError, config_path, load_settings, recipe_names
from .start import check_data, train
from .state import ResumeError
from .trainer import Outcome, Trainer, TrainingDivergedError

__all__ = [
    "Outcome",
    "ResumeError",
    "Settings",
    "SettingsError",
    "Trainer",
    "TrainingDivergedError",
    "check_data",
    "config_path",
    "load_settings",
    "recipe_names",
    "train",
]
