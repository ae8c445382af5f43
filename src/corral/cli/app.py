"""The `corral` program: the table of commands, and how wrong usage ends one.

`corral ps` must feel instant, so this file imports typer and nothing else that is large; rich is imported only by what
draws with it.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from corral import __version__
from corral.cli.errors import guarded
from corral.cli.help import Command

# Command → its module here, and its one-line help; the function has the command's name. The order is the help's.
SECTIONS: dict[str, dict[str, tuple[str, str]]] = {
    "Machines": {
        "run": ("run", "Make a machine from an image and start it"),
        "ps": ("ps", "List machines"),
        "start": ("life", "Start machines"),
        "stop": ("life", "Shut machines down, and wait until they are off"),
        "kill": ("life", "Turn machines off at once, as pulling the plug would"),
        "pause": ("life", "Halt machines' CPUs"),
        "resume": ("life", "Let paused machines go on"),
        "restart": ("life", "Reboot machines, and wait until they have"),
        "set": ("size", "Change a machine's CPUs and memory, also while it runs"),
        "pin": ("placement", "Choose the host's CPUs that a machine runs on, or show them"),
        "numa": ("placement", "Choose the host's nodes that a machine's memory comes from, or show them"),
        "autostart": ("life", "Have machines start with the daemon, or no longer"),
        "rename": ("life", "Give a machine another name"),
        "rm": ("life", "Remove machines"),
    },
    "Inside": {
        "console": ("console", "Attach to a machine's console"),
        "exec": ("guest", "Run a command in a machine, through its guest agent"),
        "cp": ("copy", "Copy files and directories into a machine or out of it"),
        "info": ("inside", "Show what a machine's guest says of itself"),
        "agent": ("agent", "Clock, file systems, passwords, keys of a guest: time, freeze, thaw, trim, password, keys"),
        "sleep": ("inside", "Have a machine's guest fall asleep, to memory or disk"),
        "wake": ("inside", "Wake a machine's guest that sleeps in memory"),
        "view": ("view", "Open a machine's screen in a viewer, or say how to"),
        "screenshot": ("screenshot", "Save a picture of a machine's screen"),
        "logs": ("logs", "Show what a machine's QEMU has written"),
        "events": ("events", "Follow what happens to machines"),
    },
    "Figures": {
        "top": ("top", "Show live what machines use"),
        "metrics": ("metrics", "Offer machines' figures to Prometheus"),
        "perf": ("perf", "Measure one machine with the host's perf: stat, record"),
        "autoscale": ("autoscale", "Have a machine scaled by its load"),
    },
    "Devices": {
        "disk": ("disk", "Disks and CDs of a machine: ls, add, rm, insert, eject, resize, limit"),
        "nic": ("nic", "Network cards of a machine: ls, add, rm, link, limit, addresses"),
        "display": ("display", "Displays of a machine and their passwords: ls, password"),
        "usb": ("usb", "USB devices of this computer, or made here, in a machine: ls, share, stick, serial, keyboard"),
        "iothread": ("iothread", "I/O threads of a machine, for its disks: ls, add, rm, tune"),
        "device": ("device", "Devices of every kind, from their XML: add, rm, update"),
    },
    "Documents": {
        "show": ("document", "Show a machine's document"),
        "define": ("document", "Keep a machine's document: new, or in place of the old"),
        "edit": ("edit", "Change a machine's document in your editor"),
    },
    "Host": {
        "doctor": ("doctor", "Say what works on this host, and what to do about the rest"),
        "daemon": ("daemon", "Be the daemon, in the foreground"),
        "completion": ("completion", "Print the completion script for a shell"),
    },
}
COMMANDS = {name: entry for section in SECTIONS.values() for name, entry in section.items()}
PLAIN = {"add_completion": False, "rich_markup_mode": None, "pretty_exceptions_enable": False}
HELP_OPTIONS = {"help_option_names": ["-h", "--help"]}


class Commands(TyperGroup):
    """The group of all commands: the table is its help, and a command's module is imported when it is run."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"corral.cli.{COMMANDS[cmd_name][0]}")
        if cmd_name in GROUPS:
            return typer.main.get_command(_group(cmd_name, module))
        app = typer.Typer(**PLAIN)  # type: ignore[arg-type]
        settings = {
            "cls": Command,
            "context_settings": HELP_OPTIONS,
            **getattr(module, "SETTINGS", {}).get(cmd_name, {}),
        }
        app.command(cmd_name, **settings)(getattr(module, f"{cmd_name}_" if cmd_name in KEYWORDS else cmd_name))
        return typer.main.get_command(app)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name = args[0]
        if name == "help":
            if len(args) == 1:
                typer.echo(ctx.get_help())
                ctx.exit()
            return self.resolve_command(ctx, [args[1], "--help"])
        if name not in COMMANDS and not name.startswith("-") and not ctx.resilient_parsing:
            close = difflib.get_close_matches(ALIASES.get(name, name), COMMANDS, 1)
            ctx.fail(f"no command '{name}'" + (f"; did you mean '{close[0]}'?" if close else ""))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        for title, commands in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name, text) for name, (_, text) in commands.items()])


def _group(name: str, module: Any) -> typer.Typer:
    """A command with commands of its own: functions of its module."""
    app = typer.Typer(context_settings=HELP_OPTIONS, no_args_is_help=True, help=COMMANDS[name][1] + ".", **PLAIN)  # type: ignore[arg-type]
    for each in GROUPS[name]:
        app.command(each, cls=Command, context_settings=HELP_OPTIONS)(getattr(module, each))
    return app


#: Commands that are groups, and their own commands.
GROUPS = {
    "agent": ("time", "freeze", "thaw", "trim", "password", "keys"),
    "perf": ("stat", "record"),
    "disk": ("ls", "add", "rm", "insert", "eject", "resize", "limit"),
    "nic": ("ls", "add", "rm", "link", "limit", "addresses"),
    "iothread": ("ls", "add", "rm", "tune"),
    "device": ("add", "rm", "update"),
    "display": ("ls", "password"),
    "usb": ("ls", "share", "stick", "serial", "keyboard"),
}
KEYWORDS = {"exec", "set"}  # names that Python has a use for
ALIASES = {"list": "ps", "ls": "ps", "destroy": "kill", "shutdown": "stop", "reboot": "restart", "undefine": "rm"}
ALIASES |= {
    "delete": "rm",
    "suspend": "pause",
    "unpause": "resume",
    "dumpxml": "show",
    "inspect": "show",
    "create": "run",
}
ALIASES |= {"attach": "console", "launch": "run", "shell": "console", "rum": "run", "copy": "cp", "mv": "rename"}


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"corral {__version__}")
        raise typer.Exit


def root(
    ctx: typer.Context,
    connect: Annotated[
        str | None,
        typer.Option("--connect", "-c", metavar="URI", help="The daemon to talk to, such as qemu:///system."),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Run virtual machines. Try: corral run tiny --name web"""
    if connect is not None and ctx.invoked_subcommand:
        name = ctx.invoked_subcommand
        ctx.default_map = {name: {"connect": connect, **{each: {"connect": connect} for each in GROUPS.get(name, ())}}}


def program() -> Any:
    """The whole command tree, for `execute`, completion and tests."""
    app = typer.Typer(cls=Commands, context_settings=HELP_OPTIONS, no_args_is_help=True, **PLAIN)  # type: ignore[arg-type]
    app.callback()(root)
    return typer.main.get_command(app)


def execute(arguments: Sequence[str] | None = None) -> int:
    """Run the command in `arguments` (default: the process's); its exit status: 0, 1 for errors, 2 for wrong usage."""
    if "_CORRAL_COMPLETE" in os.environ:
        from typer.completion import completion_init  # type: ignore[attr-defined]

        completion_init()
    try:
        return guarded(lambda: program().main(arguments, prog_name="corral", standalone_mode=False))
    except typer.TyperException as error:
        return _usage(error)
    except typer.Abort:
        return 130


def _usage(error: typer.TyperException) -> int:
    message = error.format_message().replace("Value error, ", "")
    context = getattr(error, "ctx", None)
    if not message.strip() or type(error).__name__ == "NoArgsIsHelpError":
        print(context.get_help() if context else message, file=sys.stderr)
        return 2
    path = context.command_path if context else "corral"
    print(f"corral: {message[0].lower()}{message[1:].rstrip('.')}", file=sys.stderr)
    print(f"        see: {path} --help", file=sys.stderr)
    return 2
