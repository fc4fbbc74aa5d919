"""Tests of liveness and of the rules of operators by brute-force oracles: numpy and ONNX Runtime."""
