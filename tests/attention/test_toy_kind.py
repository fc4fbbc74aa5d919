"""A kind of unit that the product does not have, in one class: all that is done with units works on it as it is.

The kind is the width of heads: a unit is one channel of the values, the same in every head of a site.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from inspect import getsource as inspect_source
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxheadprune as ohp
from onnxheadprune import AttentionSite, inspect
from onnxheadprune.attention.sites.projection import Projection
from onnxheadprune.attention.sites.site import Findings, Site
from onnxheadprune.model.graph.view import GraphView
from onnxheadprune.settings.units import KINDS, UnitKind
from tests.conftest import PackageCopy
from tests.graphs import toys
from tests.liveness.one_node import run
from tests.sources import PACKAGE

WIDTHS = {
    "unit": "channel",
    "units": "channels",
    "block": "width",
    "title": "head width",
    "key": "width.",
    "field": "widths",
}
CHANNEL = UnitKind(first=7_000_000, finder=__name__, **WIDTHS)


@dataclass(frozen=True, eq=False, kw_only=True)
class WidthSite(Site):
    """The values of an attention site; its units are their channels, each of the same position in every head."""

    KIND = CHANNEL


def found(view: GraphView, known: Sequence[Site]) -> Findings:
    """The widths of the heads of all attention sites without a cache."""
    found = [
        WidthSite(
            index=CHANNEL.first + number,
            name=f"{site.name}.width",
            num_units=site.v_head_size,
            groups=tuple((channel,) for channel in range(site.v_head_size)),
            projections=tuple(_of_channels(item) for item in site.projections),
            cores=site.cores,
            units=tuple((channel,) for channel in range(site.v_head_size)),
            params=site.params // 2,
            flops_per_token=site.flops_per_token // 2,
            original_num_units=site.v_head_size,
        )
        for number, site in enumerate(known)
        if isinstance(site, AttentionSite) and not site.io
    ]
    return Findings(found)


def _of_channels(projection: Projection) -> Projection:
    """The same projection, whose units are positions in heads."""
    return replace(projection, channels=tuple(zip(*projection.channels, strict=True)))


@pytest.fixture(autouse=True)
def known() -> Iterator[None]:
    KINDS.append(CHANNEL)
    yield
    KINDS.remove(CHANNEL)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    onnx.save(toys.stack(), path)
    return path


FEED = {"input_ids": np.arange(12).reshape(2, 6)}


def test_it_is_found_and_named(model: Path) -> None:
    sites = inspect(model)
    (first, _) = sites.of("channels")
    assert (first.key, first.label) == ("width.0", "width.0 (layer0.attn.width)")
    assert [item["num_channels"] for item in sites.to_dict()["widths"]] == [toys.HEAD_SIZE] * 2
    keys = [site.key for site in sites.every]
    assert keys[:4] == ["0", "1", "ffn.0", "ffn.1"] and keys[-2:] == ["width.0", "width.1"]


def test_its_cut_equals_what_the_weights_say(model: Path) -> None:
    """The oracle knows nothing of sites: zeros in the rows of the output projection that read the channel."""
    made = ohp.prune(model, heads={"width.0": [1], "width.1": [0, 3]}, provider="cpu")
    assert made.validation is not None and made.validation.verdict == "passed"
    assert made.plan.edge_gathers == () and made.plan.kinds == "channels"
    other = onnx.load(model)
    for layer, gone in ((0, (1,)), (1, (0, 3))):
        name = f"layer{layer}.attn.out.weight"
        weights = toys.get_initializer(other, name)
        weights.reshape(-1, toys.HEAD_SIZE, toys.HIDDEN)[:, gone] = 0
        toys.set_initializer(other, name, weights)
    wanted, got = (run(item, FEED)["logits"] for item in (other, made.model))
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)
    widths = [toys.get_initializer(made.model, f"layer{layer}.attn.v.weight").shape for layer in (0, 1)]
    heads = inspect(made.model)
    assert widths == [(12, 12), (12, 8)] and [site.num_heads for site in heads] == [4, 4]


HEADER = """
from collections.abc import Sequence
from dataclasses import dataclass, replace

from onnxheadprune.attention.sites.all_sites import AttentionSite
from onnxheadprune.attention.sites.projection import Projection
from onnxheadprune.attention.sites.site import Findings, Site
from onnxheadprune.model.graph.view import GraphView
from onnxheadprune.settings.units import CHANNEL


"""


LISTED = "KINDS = [HEAD, NEURON, EXPERT, LAYER]\n"
BEFORE_OPTION = "    experts: Annotated[\n"
OPTION = """    channels: Annotated[
        Text | None, Setting("Channels to remove from heads: 0:1,3.", metavar="C", rules=(excludes(AMOUNT),))
    ] = None
"""


@pytest.mark.slow
def test_a_target_weighs_it_against_heads_and_neurons(copied: PackageCopy) -> None:
    """A file of the package and the option of its name are all that options and searches need to know of it."""
    source = "\n\n".join([HEADER, *map(inspect_source, (WidthSite, found, _of_channels))])
    copied.add("attention/sites/width_site.py", source)
    kinds = (PACKAGE / "settings/units.py").read_text(encoding="utf-8")
    assert kinds.count(LISTED) == 1
    finder = "onnxheadprune.attention.sites.width_site"
    record = f"CHANNEL = UnitKind(first=7_000_000, finder={finder!r}, **{WIDTHS})\n"
    copied.add("settings/units.py", kinds.replace(LISTED, record + LISTED.replace("LAYER", "CHANNEL, LAYER")))
    place = "settings/cutting.py"
    declared = (PACKAGE / place).read_text(encoding="utf-8")
    assert declared.count(BEFORE_OPTION) == 1
    missing = copied.run("prune", "--help")
    assert "Cut declares no option for units that may be selected: channels" in missing.stderr
    copied.add(place, declared.replace(BEFORE_OPTION, OPTION + BEFORE_OPTION))
    onnx.save(toys.stack(), copied.folder / "model.onnx")
    ids = np.random.default_rng(3).integers(0, toys.VOCABULARY, (24, 6))
    np.savez(copied.folder / "ids.npz", input_ids=ids)
    target = ("prune", "model.onnx", "-o", "out.onnx", "--ratio", "0.3", "--data", "ids.npz")
    options = ("--provider", "cpu", "--no-refit", "--multiple-of", "neurons=1", "--json")
    made = copied.run(*target, "--units", "heads,neurons,channels", *options)
    assert made.returncode == 0, made.stderr
    document = json.loads(made.stdout)
    assert document["validation"]["verdict"] == "passed"
    assert any(document["plan"]["edit_counts"].values())
    assert "measured drift" in document["choice"]["selection"]["basis"]
    refused = copied.run(*target, "--units", "pairs")
    assert refused.returncode == 2
    assert "--units: there are heads, neurons, experts, channels, layers or all, not pairs" in refused.stderr
