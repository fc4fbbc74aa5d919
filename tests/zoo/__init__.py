"""A zoo of tiny exported ONNX transformers with references made by PyTorch alone.

``python -m tests.zoo.build --out DIR`` writes it. It needs torch, transformers and timm (the
``samples`` extra); nothing in the package itself imports it.
"""
