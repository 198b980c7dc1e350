"""The program `mainspring`: its global options, its groups, its exit codes, and how it says what went wrong."""

from __future__ import annotations

import errno
import sys
from contextlib import chdir
from pathlib import Path
from typing import Annotated, cast

import typer

from mainspring.cli import data, models, oversight, project, runs
from mainspring.cli.session import Session
from mainspring.core.errors import Invalid, MainspringError, Refused, Unavailable

OK, SAID_NO, MISTAKE, UNAVAILABLE, BUG = 0, 1, 2, 3, 70
EPILOG = "Every command also takes --json, -C DIR, --project NAME and --url URL."
# Global options that may stand anywhere on the line, and whether each takes a value.
_GLOBAL = {"--json": False, "-C": True, "--directory": True, "--project": True, "--url": True}
# What to do when the system says no.
_NEXT = {
    errno.EACCES: "check who owns it and its permissions",
    errno.EPERM: "check who owns it and its permissions",
    errno.EROFS: "use a folder that can be written to",
    errno.ENOENT: "check the path; its folder must be there",
    errno.ENOTDIR: "check the path; a part of it is a file",
    errno.EISDIR: "name a file, not a folder",
    errno.ENOSPC: "free some space and try again",
    errno.EDQUOT: "free some space and try again",
}
# Everything wrong with a command line; Typer names its own copy of the class only through a subclass.
_USAGE: type[Exception] = typer.BadParameter.__bases__[0]

app = typer.Typer(
    name="mainspring",
    help="From a data file to a model that watches and heals itself.",
    epilog="Exit codes: 0 done, 1 a gate or contract said no, 2 a mistake in the input, 3 something is unavailable.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
project.add_commands(app)
oversight.add_commands(app)
for name, group in (("models", models.app), ("runs", runs.app), ("data", data.app), *oversight.GROUPS.items()):
    app.add_typer(group, name=name, epilog=EPILOG, no_args_is_help=True)


def _show_version(context: typer.Context, wanted: bool) -> None:
    if wanted:
        from mainspring import __version__

        as_json = context.params.get("as_json", False)
        typer.echo(f'{{"version": "{__version__}"}}' if as_json else __version__)
        raise typer.Exit


@app.callback()
def start(
    context: typer.Context,
    # Eager, as --version is: the version is printed before a command is asked for.
    as_json: Annotated[bool, typer.Option("--json", is_eager=True, help="Print JSON.")] = False,
    directory: Annotated[Path, typer.Option("-C", "--directory", help="Folder of the project.")] = Path(),
    named: Annotated[str, typer.Option("--project", help="Project, where there are several.")] = "",
    url: Annotated[str, typer.Option("--url", help="Control plane to use instead of this machine's files.")] = "",
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Print the version.")
    ] = False,
) -> None:
    if directory.is_dir():
        # As with make and git: what a project's functions open by a relative path starts at the project's folder.
        context.with_resource(chdir(directory))
        directory = Path()
    context.obj = Session(directory, named, url, as_json)
    context.call_on_close(context.obj.close)


def main(arguments: list[str] | None = None) -> None:
    """Run the program and exit with its code."""
    given = globals_first(sys.argv[1:] if arguments is None else arguments)
    sys.exit(run(given))


def run(arguments: list[str]) -> int:
    """Run the program and return its exit code; whatever goes wrong is said in two lines, never as a traceback."""
    as_json = "--json" in arguments
    try:
        code = app(arguments, prog_name="mainspring", standalone_mode=False)
        return code if isinstance(code, int) else OK
    except typer.Exit as ended:
        return ended.exit_code
    except (typer.Abort, KeyboardInterrupt):
        typer.echo("stopped", err=True)
        return 130
    except BrokenPipeError:
        return OK
    except MainspringError as error:
        say(error, as_json=as_json)
        return SAID_NO if isinstance(error, Refused) else UNAVAILABLE if isinstance(error, Unavailable) else MISTAKE
    except _USAGE as error:
        say(_as_invalid(cast(typer.BadParameter, error)), as_json=as_json)
        return MISTAKE
    except OSError as error:
        say(_as_unavailable(error), as_json=as_json)
        return UNAVAILABLE
    except Exception as error:
        _say_bug(error, as_json=as_json)
        return BUG


def say(error: MainspringError, *, as_json: bool) -> None:
    """Print an error on stderr: code, message and hint, or the same as JSON."""
    if as_json:
        import json

        typer.echo(json.dumps(error.as_dict(), ensure_ascii=False), err=True)
    else:
        typer.echo(str(error), err=True)


def globals_first(arguments: list[str]) -> list[str]:
    """Return the arguments with the global options moved to the front, so that they may stand anywhere.

    >>> globals_first(["models", "list", "--json", "-C", "x", "--", "--json"])
    ['--json', '-C', 'x', 'models', 'list', '--', '--json']
    """
    front, rest = [], []
    position = 0
    while position < len(arguments) and arguments[position] != "--":
        word = arguments[position]
        name = word.partition("=")[0]
        if name in _GLOBAL:
            front.append(word)
            if _GLOBAL[name] and "=" not in word and position + 1 < len(arguments):
                position += 1
                front.append(arguments[position])
        else:
            rest.append(word)
        position += 1
    return [*front, *rest, *arguments[position:]]


def _as_invalid(error: typer.BadParameter) -> MainspringError:
    message = error.format_message().rstrip(".")
    path = error.ctx.command_path if error.ctx else "mainspring"
    return Invalid(message[:1].lower() + message[1:], hint=f"{path} --help")


def _as_unavailable(error: OSError) -> MainspringError:
    reason = error.strerror or str(error) or type(error).__name__
    named = " and ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
    hint = _NEXT.get(error.errno or 0, "look at the path, its disk and its permissions")
    return Unavailable(f"{named} cannot be used: {reason}" if named else f"the system refused: {reason}", hint=hint)


def _say_bug(error: Exception, *, as_json: bool) -> None:
    import tempfile
    import traceback

    class Bug(MainspringError):
        code = "bug"

    with tempfile.NamedTemporaryFile("w", prefix="mainspring-", suffix=".txt", delete=False, encoding="utf-8") as out:
        out.write("".join(traceback.format_exception(error)))
    text = str(error).splitlines()[0] if str(error) else ""
    hint = f"please report it with the file {out.name}"
    say(Bug(f"a mistake in mainspring itself: {type(error).__name__}: {text}"[:300], hint=hint), as_json=as_json)


if __name__ == "__main__":
    main()
