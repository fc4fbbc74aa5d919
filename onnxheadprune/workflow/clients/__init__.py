"""What the programs that load a folder of ONNX models rely on, one file per client."""
