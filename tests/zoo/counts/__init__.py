"""How many heads, keys, blocks and layers the tool finds in a graph, compared with the attributes of its module."""
