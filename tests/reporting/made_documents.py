"""Documents as commands print them, small and with known numbers, to make pages of."""

from __future__ import annotations

from typing import Any


def cut_document(sites: int = 2, heads: int = 4) -> dict[str, Any]:
    """A cut of every second head, chosen by scores."""
    cuts = [
        {
            "index": index,
            "name": f"layer.{index}.attention",
            "num_heads": heads,
            "kv_num_heads": heads,
            "removed": list(range(0, heads, 2)),
            "removed_before": [],
            "kv_removed": heads // 2,
            "heads_left": heads // 2,
        }
        for index in range(sites)
    ]
    scores = {
        str(index): [0.01 * (head + 1) * (index + 1) for head in range(heads)] for index in range(sites)
    }
    case = {
        "source": "random",
        "settings": "exact",
        "feeds": 2,
        "shapes": {"x": [2, 8]},
        "tolerance": 1e-5,
        "max_abs_error": 0.0,
        "max_rel_error": 0.0,
        "worst_output": "y",
        "power": 0.4,
        "finite": True,
        "passed": True,
        "conclusive": True,
    }
    return {
        "model": "here/large.onnx",
        "output": "here/small.onnx",
        "before": {"elements": 4000, "bytes": 16000},
        "after": {"elements": 3000, "bytes": 12000},
        "file_bytes": {"before": 17000, "after": 13000},
        "operations": {"before": 8_000_000, "after": 6_000_000, "shapes": {"x": [2, 8]}, "complete": True},
        "plan": {
            "cuts": cuts,
            "kinds": [],
            "edits": [],
            "io_changes": [],
            "fingerprint": "0123456789abcdef",
        },
        "choice": {
            "selection": {"heads": {}, "basis": "measured drift", "costs": {}, "scores": scores},
            "compensation": None,
            "trials": [],
            "drift": 0.001,
            "drift_unit": "cosine",
            "drift_measured_on": "16 samples that the choice has not seen",
            "speed": None,
        },
        "validation": {
            "original": "here/large.onnx",
            "pruned": "here/small.onnx",
            "verdict": "passed",
            "exact": "yes",
            "reason": "equal on all inputs",
            "problems": [],
            "notes": [],
            "cases": [case],
            "max_rel_error": 0.0,
            "power": 0.4,
            "weights_compared": 12,
            "structure": {"identical": True, "nodes": 40, "same": 40, "tensors": 12, "count": 0},
            "drift": None,
            "accuracy": None,
            "metric": None,
            "refitted": [],
            "exits": [],
            "units": {str(index): list(range(0, heads, 2)) for index in range(sites)},
            "seed": 0,
            "provider": {"name": "CPUExecutionProvider", "reason": "asked for"},
            "versions": {"onnx": "1.20.0", "onnxruntime": "1.27.0"},
        },
        "warnings": [],
    }
