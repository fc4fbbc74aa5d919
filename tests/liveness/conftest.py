"""Every reason that a test of this folder meets is checked against the graph it speaks of."""

from tests.attention.conftest import reasons_are_true

__all__ = ["reasons_are_true"]
