"""Tests of plans, records and edits: the surviving weights are the same bits."""
