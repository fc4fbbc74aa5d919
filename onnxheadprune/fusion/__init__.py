"""Attention of a site rewritten into one fused operator."""

from onnxheadprune.fusion.fuse import fuse
from onnxheadprune.fusion.result import FUSED_KEY, MODES, FuseMode, Fusion, SiteFusion, fused_record

__all__ = ["FUSED_KEY", "MODES", "FuseMode", "Fusion", "SiteFusion", "fuse", "fused_record"]
