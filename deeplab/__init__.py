"""DeepLab v1, v2, v3 and v3+: the papers' networks in PyTorch, with atrous convolution throughout.

model = deeplab.build("deeplabv3plus_resnet101", num_classes=21, output_stride=16)
scores = model(model.normalize(images))  # uint8 RGB [B, 3, H, W] to [B, 21, H, W]
model.set_output_stride(8)  # the same weights, twice as dense

    model = deeplab.load("deeplabv3_resnet101_coco-586e9e4e.pth")  # torchvision's, and others'
"""

from __future__ import annotations

from . import data
from .checkpoints import CheckpointError, convert, load, load_backbone, save
from .config import Config
from .evaluation import evaluate
from .huggingface import HuggingFaceNetwork, post_process_semantic_segmentation
from .inputs import normalize
from .models import DeepLab
from .registry import MODELS, build, model_config
from .segmenter import CRF, Segmenter

__all__ = [
    "CRF",
    "MODELS",
    "CheckpointError",
    "Config",
    "DeepLab",
    "HuggingFaceNetwork",
    "Segmenter",
    "build",
    "convert",
    "data",
    "evaluate",
    "load",
    "load_backbone",
    "model_config",
    "normalize",
    "post_process_semantic_segmentation",
    "save",
]
