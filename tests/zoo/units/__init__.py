"""Neurons and layers of the zoo: cuts of what is no head, compared with PyTorch and with the masked reference."""
