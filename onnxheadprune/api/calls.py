"""The calls of the Python API: the settings of each function, and the rules of it alone."""

from __future__ import annotations

from onnxheadprune.api.keywords import Call
from onnxheadprune.settings.calls import (
    SIZES,
    BenchCall,
    FolderCall,
    FuseCall,
    InspectCall,
    QuantizeCall,
    RecoverCall,
    ScoreCall,
    SelectCall,
    SweepCall,
    TimedPruneCall,
    ValidateCall,
)
from onnxheadprune.settings.cutting import NO_DATA, UNITS
from onnxheadprune.settings.inputs import Samples
from onnxheadprune.settings.setting import declared, requires

_RANDOM = {"seed": requires("data=random")}
_TIMED = {SIZES: requires("target_speedup")}
PRUNE = Call("prune", TimedPruneCall, without="output runtime per_layer_config exclude", rules=_TIMED)
PRUNE_FOLDER = Call("prune_folder", FolderCall, without="exit")
FUSE = Call("fuse", FuseCall, without="output")
RECOVER = Call("recover", RecoverCall, implies="recover")
QUANTIZE = Call("quantize", QuantizeCall, rules={"drift provider": requires("data"), **_RANDOM})
SCORE = Call("score", ScoreCall, rules={"data": NO_DATA, **_RANDOM})
SWEEP = Call("sweep", SweepCall, implies="ratio", rules={"seed": requires("data=random recover time")})
SELECT = Call(
    "select_heads",
    SelectCall,
    only="ratio keep scores method protect min_heads multiple_of uniform drift provider seed"
    f" data data_format {' '.join(declared(Samples))}",
)
PLAN = Call("plan_pruning", SelectCall, only=f"{UNITS} exit cache allow_io_change")
VALIDATE = Call("validate", ValidateCall, rules={SIZES: requires("min_speedup")})
BENCH = Call("bench", BenchCall)
INSPECT = Call("inspect", InspectCall)
CALLS = (
    PRUNE,
    PRUNE_FOLDER,
    FUSE,
    RECOVER,
    QUANTIZE,
    SCORE,
    SWEEP,
    SELECT,
    PLAN,
    VALIDATE,
    BENCH,
    INSPECT,
)
