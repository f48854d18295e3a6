"""The command ``lightning-adapt``: it imports nothing heavy before it knows the verb."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter

from lightning_adapt import __version__, _reading_verbs
from lightning_adapt._command import Parser, parser_of, standard_output
from lightning_adapt._text import unknown_name
from lightning_adapt.recipes.landscapes import registry as landscapes
from lightning_adapt.recipes.registry import RECIPES, find, missing_extra

_HELP = ("-h", "--help")

#: What ``demo`` runs: recipe -> options that keep it under a minute on two CPU cores.
DEMO: Mapping[str, Sequence[str]] = {
    "nlp/char-lm": ("--trainer.max_steps", "500"),
    "gnn/node-classification": (),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: The words after ``lightning-adapt``; ``None`` takes those of the process.

    Returns:
        The exit status: 0; 1 for a failure; 2 for an argument that cannot be; 130 after Ctrl-C.

    Example:
        >>> main(["--version"])
        lightning-adapt 0.1.0
        0
    """
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words or os.environ.get("LIGHTNING_ADAPT_DEBUG", "0") not in ("", "0")
    words = [word for word in words if word != "--debug"]
    try:
        status = _dispatch(words)
        sys.stdout.flush()
        return status
    except SystemExit as end:  # argparse's --help and --print_config end so
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt as stop:
        print(f"\n{str(stop) or 'stopped'}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read the output has enough, as in `| head`
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # so that the end of Python says nothing
        return 1
    except Exception as error:
        if debug:
            raise
        print(f"lightning-adapt: error: {_sentence(error)}", file=sys.stderr)
        bad_argument = isinstance(error, ValueError) or type(error).__name__ == "MisconfigurationException"
        return 2 if bad_argument else 1


def _sentence(error: Exception) -> str:
    """One line for the user; where the text is not ours, say how to see more."""
    text = " ".join(str(error).split())
    if isinstance(error, ModuleNotFoundError) and error.name and "pip install" not in text:
        return missing_extra(error.name.partition(".")[0], "this")
    if text and (isinstance(error, (ValueError, OSError)) or "pip install" in text):
        return text
    return f"{type(error).__name__}: {text} (--debug shows where)"


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in _HELP:
        print(_help())
        return 0 if words else 2
    if words[0] in ("-V", "--version"):
        print(f"lightning-adapt {__version__}")
        return 0
    verb, *rest = words
    if verb not in VERBS:
        raise ValueError(unknown_name("command", verb, VERBS))
    about, function = VERBS[verb]
    return function(verb, about, rest)


def _help() -> str:
    verbs = "\n".join(f"  {verb:<11} {about}" for verb, (about, _) in VERBS.items())
    return (
        "usage: lightning-adapt COMMAND [options]\n\n"
        "See what an adaptive optimizer really does while a model trains.\n\n"
        f"commands:\n{verbs}\n\n"
        "examples:\n"
        "  lightning-adapt run nlp/char-lm --optimizer adagrad\n"
        "  lightning-adapt compare gnn/node-classification --optimizers adagrad,adamw\n"
        "  lightning-adapt inspect runs/nlp/char-lm/version_0\n\n"
        "`lightning-adapt COMMAND --help` says more; --debug shows the traceback of an error."
    )


def _recipes(verb: str, about: str, rest: list[str]) -> int:
    parser_of(verb, about).parse_args(rest)
    names = [landscapes.PREFIX + name for name in landscapes.LANDSCAPES]
    width = max(map(len, [*RECIPES, *names]))
    for recipe in RECIPES.values():
        presets = f" [presets: {', '.join(recipe.presets)}]" if recipe.presets else ""
        print(f"{recipe.name:<{width}}  {recipe.summary}{presets}")
    for name, entry in zip(names, landscapes.LANDSCAPES.values(), strict=True):
        print(f"{name:<{width}}  {entry.summary}")
    return 0


_OWN = """\
RECIPE is one of: {recipes}

options of this command, after RECIPE:
{options}
  --preset NAME      a variant of the recipe's values (`lightning-adapt recipes` lists them)
  --threads N        torch's CPU threads (the recipe chooses, and says so)
  --logs DIR         folder in which log folders are made (default: runs)
and every option of LightningCLI's fit, for example
  --trainer.max_steps 200  --trainer.precision bf16-mixed  --model.lr 0.01  --monitor.every_n_steps 10
`lightning-adapt run RECIPE --help` lists all of them with the recipe's values."""


def _own(verb: str, about: str, options: str) -> tuple[Parser, Parser]:
    """The help of a verb that runs recipes, and the parser for its own options."""
    text = _OWN.format(recipes=", ".join(RECIPES), options=options)
    outer = parser_of(verb, about, text)
    outer.usage = "%(prog)s RECIPE [options]"
    own = parser_of(verb, about, add_help=False)
    own.add_argument("--preset")
    own.add_argument("--threads", type=int)
    own.add_argument("--logs", default="runs")
    return outer, own


def _run(verb: str, about: str, rest: list[str]) -> int:
    outer, own = _own(verb, about, "  --optimizer NAME   one of `lightning-adapt list`")
    own.add_argument("--optimizer")
    if not rest or rest[0] in _HELP:
        outer.print_help()
        return 0 if rest else 2
    if rest[0].startswith(landscapes.PREFIX):
        return _run_landscape(rest[0], rest[1:])
    recipe = find(rest[0])
    given, options = own.parse_known_args(rest[1:])
    recipe.check_installed()

    from lightning_adapt.recipes.runner import run, show

    console = standard_output()
    show(run(recipe, options, **vars(given), console=console), console)
    return 0


def _run_landscape(name: str, words: list[str]) -> int:
    started = perf_counter()
    entry = landscapes.find(name)
    own = parser_of(f"run {name}", entry.summary, add_help=False)
    own.add_argument("--logs", type=Path, default=Path("runs"))
    given, options = own.parse_known_args(words)

    from lightning_adapt.recipes.landscapes.run import fresh, parse, run_one, show, sum_up

    logs = fresh(given.logs / "landscapes" / entry.name)
    results, console = [run_one(entry, logs, parse(entry, options))], standard_output()
    show(results, console)
    sum_up(results, console, perf_counter() - started)
    return 0


def _landscapes(verb: str, about: str, rest: list[str]) -> int:
    started = perf_counter()
    parser = parser_of(verb, about)
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these (default: all)")
    parser.add_argument("--html", type=Path, metavar="FILE", help="also write one self-contained page")
    parser.add_argument("--md", type=Path, metavar="FILE", help="also write markdown, figures beside it")
    parser.add_argument("--logs", type=Path, default=Path("runs"), metavar="DIR", help="default: %(default)s")
    given = parser.parse_args(rest)
    names = [landscapes.find(name).name for name in given.names]
    for file in (given.html, given.md):
        if file is not None and not file.parent.is_dir():
            raise FileNotFoundError(
                f"the page must lie in a folder that exists, got {str(file)!r}; make it first"
            )

    from lightning_adapt.recipes.landscapes.page import write_html, write_markdown
    from lightning_adapt.recipes.landscapes.run import fresh, run_all, show, sum_up

    console = standard_output()
    results = run_all(names, fresh(given.logs / "landscapes"), console)
    show(results, console)
    if given.html is not None:
        write_html(results, given.html)
    if given.md is not None:
        write_markdown(results, given.md)
    sum_up(results, console, perf_counter() - started)
    return int(any(result.error for result in results))


def _compare(verb: str, about: str, rest: list[str]) -> int:
    names = "adagrad,rmsprop,adam,adamw"
    outer, own = _own(verb, about, f"  --optimizers NAMES divided by commas (default: {names})")
    own.add_argument("--optimizers", default=names)
    if not rest or rest[0] in _HELP:
        outer.print_help()
        return 0 if rest else 2
    recipe = find(rest[0])
    given, options = own.parse_known_args(rest[1:])
    recipe.check_installed()

    from lightning_adapt.recipes.compare import compare, show_comparison

    console = standard_output()
    wanted = vars(given)
    optimizers = [name.strip() for name in wanted.pop("optimizers").split(",") if name.strip()]
    rows, folder = compare(recipe, optimizers, options, **wanted, console=console)
    show_comparison(recipe, rows, folder, console)
    return int(any(row.outcome is None for row in rows))


def _demo(verb: str, about: str, rest: list[str]) -> int:
    parser = parser_of(verb, about)
    parser.add_argument("--logs", default="runs/demo", help="folder for the logs (default: %(default)s)")
    logs = parser.parse_args(rest).logs
    for name in DEMO:
        find(name).check_installed()

    from lightning_adapt.recipes.runner import run, show

    console = standard_output()
    outcomes = [run(find(name), options, logs=logs, console=console) for name, options in DEMO.items()]
    for outcome in outcomes:
        show(outcome, console)
    return 0


#: Verb -> (what it does, the function for it).
VERBS: Mapping[str, tuple[str, Callable[[str, str, list[str]], int]]] = {
    "recipes": ("list the recipes", _recipes),
    "run": ("train one recipe with the monitor on, and say what was learned", _run),
    "compare": ("train one recipe with several optimizers and print one table", _compare),
    "inspect": ("print a run's or a checkpoint's parameters, worst first", _reading_verbs.inspect),
    "check": ("say what is wrong with a run or a checkpoint, why, and what to do", _reading_verbs.check),
    "lint": ("say what is wrong with a LightningCLI config before it runs", _reading_verbs.lint),
    "report": ("write runs into one file: a page with all views, markdown or JSON", _reading_verbs.report),
    "landscapes": ("run every claim about adaptive optimizers and print one table", _landscapes),
    "list": ("list the optimizers and what each can do", _reading_verbs.list_),
    "demo": ("train the NLP recipe and the GNN recipe, short", _demo),
}
