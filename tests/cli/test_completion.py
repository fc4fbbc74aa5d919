"""What shells complete: commands, and options of each command, before its arguments are there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from onnxheadprune.cli import NAMES, group


def test_a_shell_that_asks_gets_its_completions() -> None:
    asked = {"COMP_WORDS": "onnxheadprune pr", "COMP_CWORD": "1"}
    for value, expected in (("bash_source", "complete -o nosort"), ("bash_complete", "plain,prune")):
        environment = os.environ | asked | {"_ONNXHEADPRUNE_COMPLETE": value}
        call = [sys.executable, "-c", "from onnxheadprune.cli import main; main()"]
        found = subprocess.run(call, env=environment, capture_output=True, text=True, check=True)
        assert expected in found.stdout and found.stderr == ""


@pytest.mark.parametrize("name", NAMES)
def test_an_option_is_completed_before_the_model_is_named(name: str) -> None:
    option = next(
        item for item in group.commands[name].params if isinstance(item, click.Option) and not item.hidden
    )
    flag = max(option.opts, key=len)
    asked = {"COMP_WORDS": f"onnxheadprune {name} {flag[:-1]}", "COMP_CWORD": "2"}
    environment = os.environ | asked | {"_ONNXHEADPRUNE_COMPLETE": "bash_complete"}
    call = [sys.executable, "-c", "from onnxheadprune.cli import main; main()"]
    found = subprocess.run(call, env=environment, capture_output=True, text=True, check=True)
    assert f"plain,{flag}" in found.stdout.splitlines() and found.stderr == ""


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_itself_completes_options(tmp_path: Path) -> None:
    """The script that the program prints for bash, run by bash as its completion runs it."""
    program = tmp_path / "onnxheadprune"
    program.write_text(
        f"#!{sys.executable}\nimport sys\nfrom onnxheadprune.cli import main\nsys.exit(main())\n"
    )
    program.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    script = """
        eval "$(_ONNXHEADPRUNE_COMPLETE=bash_source onnxheadprune)"
        COMP_WORDS=(onnxheadprune prune --rat); COMP_CWORD=2
        $(complete -p onnxheadprune | sed 's/.*-F \\([^ ]*\\).*/\\1/') onnxheadprune --rat prune
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    found = subprocess.run(
        ["bash", "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == ["--ratio"] and found.stderr == ""
