"""Tests of graphs as they are read: shapes, dimensions, element types, sizes."""
