"""Requirements of the runtimes that load a folder of ONNX models."""
