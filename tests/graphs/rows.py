"""All modules with rows."""

from tests.graphs import (
    blocks,
    caches,
    heads,
    missed,
    models,
    owned,
    places,
    quantized,
    routers,
    shared,
)

ALL = (blocks, caches, heads, missed, models, owned, places, quantized, routers, shared)
