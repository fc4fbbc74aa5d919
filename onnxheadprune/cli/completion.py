"""Completion in bash, zsh and fish of values behind "=" and of lists with commas. Loaded where a shell asks."""

from __future__ import annotations

from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ShellComplete,
    ZshComplete,
    add_completion_class,
)


class Bash(BashComplete):
    """Bash, for which "=" is a word, and what stands behind it the one that is completed."""

    source_template = BashComplete.source_template.replace(
        "COMPREPLY+=($value)", "COMPREPLY+=($value)\n            [[ $value == *= ]] && compopt -o nospace"
    )

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem[str]]:
        """Complete the whole word, and return what belongs behind the last "="."""
        words: list[str] = []
        for word in (*args, incomplete):
            if words and (word.startswith("=") or words[-1].endswith("=")):
                words[-1] += word
            else:
                words.append(word)
        *args, incomplete = words
        value = incomplete.partition("=")[2] if incomplete.startswith("-") else incomplete
        known = value.rpartition("=")[0]
        found = super().get_completions(args, incomplete)
        for item in found:
            item.value = item.value.removeprefix(f"{known}=" if known else "")
        return found


class _WholeWord(ShellComplete):
    """A shell for which an option, "=" and its value are one word."""

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem[str]]:
        """Return values with the option before them; shells complete names of files themselves."""
        name, equals, _ = incomplete.partition("=")
        found = super().get_completions(args, incomplete)
        for item in found if equals and name.startswith("-") else ():
            item.value = f"{name}={item.value}"
        return found


class Zsh(_WholeWord, ZshComplete):
    """Zsh, which completes the file behind "=" when the option is set aside as a prefix."""

    source_template = ZshComplete.source_template.replace(
        "_path_files -f", "compset -P 1 '--*='\n            _path_files -f"
    )


class Fish(_WholeWord, FishComplete):
    """Fish, in which a list with commas is one value."""

    source_template = FishComplete.source_template.replace('split ","', 'split -m 1 ","')


def register() -> None:
    """Let click take these for its own."""
    for shell in (Bash, Zsh, Fish):
        add_completion_class(shell)
