"""`corral completion`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer


class Shell(StrEnum):
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
    from typer.completion import get_completion_script  # type: ignore[attr-defined]

    print(get_completion_script(prog_name="corral", complete_var="_CORRAL_COMPLETE", shell=shell.value))
