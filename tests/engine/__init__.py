"""Tests of the engine by brute-force oracles: numpy and ONNX Runtime."""
