"""`corral completion`, and what is completed."""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Any

import typer


class Shell(str, Enum):
    """Shells that complete."""

    bash = "bash"
    zsh = "zsh"
    fish = "fish"


def completion(shell: Annotated[Shell, typer.Argument(help="The shell that will read the script.")]) -> None:
    """Print the completion script for a shell.

    bash: corral completion bash > ~/.local/share/bash-completion/completions/corral

    zsh:  corral completion zsh > "${fpath[1]}/_corral"

    fish: corral completion fish > ~/.config/fish/completions/corral.fish
    """
    from typer.completion import get_completion_script

    print(get_completion_script(prog_name="corral", complete_var="_CORRAL_COMPLETE", shell=shell.value))


def items(texts: dict[str, str], incomplete: str) -> list[Any]:
    """Completions of `incomplete` among the keys of `texts`, with the texts as their help."""
    from typer.core import CompletionItem

    return [CompletionItem(word, help=text) for word, text in texts.items() if word.startswith(incomplete)]
