"""Tests of sites and their cuts, compared with the masked original in numpy and ONNX Runtime."""
