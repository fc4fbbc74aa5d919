"""Attention of a site rewritten into one fused operator."""

from onnxheadprune.fusion.fuse import fuse
from onnxheadprune.fusion.result import MODES, FuseMode, Fusion, SiteFusion

__all__ = ["MODES", "FuseMode", "Fusion", "SiteFusion", "fuse"]
