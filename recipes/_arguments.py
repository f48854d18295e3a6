"""A recipe's options: LightningCLI's, with the recipe's YAML as defaults and errors of one sentence."""

from __future__ import annotations

import re
from argparse import ArgumentError
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.plugins.precision import Precision

from lightning_adapt._text import nearest_first
from lightning_adapt.callbacks import OptimizerDynamicsMonitor
from lightning_adapt.recipes._progress import RecipeProgressBar
from lightning_adapt.recipes.registry import Recipe


class RecipeCLI(LightningCLI):
    """LightningCLI for one recipe: model, data, monitor and trainer; nothing runs by itself."""

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the groups in the order in which a reader of ``--help`` wants them."""
        parser.add_lightning_class_args(self._model_class, "model")
        parser.add_lightning_class_args(self._datamodule_class, "data")
        parser.add_lightning_class_args(OptimizerDynamicsMonitor, "monitor")
        parser.add_lightning_class_args(self.trainer_class, "trainer")
        # The opening line of a run says how large the model is; a table of its layers is for who asks.
        defaults = {"logger": self.trainer_defaults["logger"], "enable_model_summary": False}
        parser.set_defaults({f"trainer.{key}": value for key, value in defaults.items()})
        parser.add_method_arguments(
            Trainer, "fit", skip={"model", "train_dataloaders", "val_dataloaders", "datamodule"}
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, and say what is wrong in one sentence.

        Raises:
            ValueError: If an option or a value is not accepted.
        """
        try:
            self.config = parser.parse_args(args)
        except ArgumentError as error:
            raise ValueError(one_sentence(str(error), list(parser._option_string_actions))) from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the trainer; a monitor or a bar that the user's YAML brings takes the place of ours."""
        config = self._get(self.config_init, "trainer")
        given = config.get("callbacks") or []
        given = list(given) if isinstance(given, list) else [given]
        if any(isinstance(callback, OptimizerDynamicsMonitor) for callback in given):
            self.parser.callback_keys.remove("monitor")
        no_bar = config.get("enable_progress_bar") is False or config.get("barebones")
        if not no_bar and not any(isinstance(callback, ProgressBar) for callback in given):
            given.append(RecipeProgressBar())
        plugins = config.get("plugins") or []
        plugins = plugins if isinstance(plugins, list) else [plugins]
        untouched = config.get("precision") == self.parser.get_default("trainer.precision")
        if untouched and any(isinstance(plugin, Precision) for plugin in plugins):
            # Lightning takes one or the other; a precision that the user asked for is left for it to refuse.
            config["precision"] = None
        return super().instantiate_trainer(callbacks=given, **kwargs)


def _load(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


def default_logger(logs: Path, name: str, version: str | None) -> dict[str, Any]:
    """A logger that writes to ``logs/name/version``: TensorBoard's, or CSV where that is not installed."""
    kind = "TensorBoardLogger" if find_spec("tensorboard") else "CSVLogger"
    init_args = {"save_dir": str(logs), "name": name, "version": version}
    return {"class_path": f"lightning.pytorch.loggers.{kind}", "init_args": init_args}


def parse(
    recipe: Recipe, args: Sequence[str], logger: dict[str, Any], callbacks: Sequence[Callback] = ()
) -> RecipeCLI:
    """Read all options and build model, data and trainer.

    Args:
        recipe: What to build.
        args: LightningCLI options as typed; later ones win.
        logger: The logger to use unless an option names another.
        callbacks: Callbacks that no option can take away.

    Raises:
        ValueError: If an option or a value is not accepted.
    """
    return RecipeCLI(
        _load(recipe.module),
        _load(recipe.data),
        run=False,
        args=list(args),
        # The modules build their own optimizer, by name.
        auto_configure_optimizers=False,
        save_config_kwargs={"overwrite": True},
        trainer_defaults={"logger": logger, "callbacks": list(callbacks)},
        parser_kwargs={
            "prog": f"lightning-adapt run {recipe.name}",
            "usage": "%(prog)s [--optimizer NAME] [--preset NAME] [--threads N] [--logs DIR] [options]",
            "description": _description(recipe),
            "default_config_files": [str(recipe.config_path)],
            "exit_on_error": False,
            "allow_abbrev": False,
        },
    )


def _description(recipe: Recipe) -> str:
    presets = ", ".join(recipe.presets) or "none"
    return (
        f"{recipe.name}: {recipe.summary}. "
        "--optimizer NAME is short for --model.optimizer NAME (`lightning-adapt list` shows the names); "
        f"--preset NAME takes a variant of the values (here: {presets}); "
        "--threads N sets torch's CPU threads; --logs DIR is where log folders are made (default: runs)."
    )


def one_sentence(message: str, options: Sequence[str] = ()) -> str:
    """Turn a parser's error into one sentence in the words of the command line.

    Args:
        message: What jsonargparse said, of any number of lines.
        options: The options that exist, to name near ones.

    Example:
        >>> one_sentence("unrecognized arguments: --model.lrr 1", ["--model.lr", "--data.path"])
        '`--model.lrr` is not an option of this recipe; the nearest are --model.lr, --data.path'
        >>> one_sentence("Parser key 'model.lr': Expected a <class 'float'>. Got value: abc")
        "`--model.lr` must be float, got 'abc'; --help lists every option"
    """
    unknown = re.match(r"unrecognized arguments: (\S+)", message, re.IGNORECASE)
    if unknown:
        name = unknown[1].partition("=")[0]
        if not name.startswith("-"):
            return f"{name!r} is not an option; options are written --group.name VALUE, and --help lists them"
        near = ", ".join(nearest_first(name, [known for known in options if known.startswith("--")])[:4])
        return f"`{name}` is not an option of this recipe; the nearest are {near}"
    key = re.match(r"""Parser key ["']([^"']+)["']""", message)
    value = re.search(r"(?:Given value|Got value): (.*)", message, re.DOTALL)
    kinds = re.findall(r"Expected an? ([^\n]+)", message)
    if key and value and kinds:
        rules = " or ".join(dict.fromkeys(_plain_type(kind) for kind in kinds))
        return f"`--{key[1]}` must be {rules}, got {value[1].strip()!r}; --help lists every option"
    return re.sub(r"""^Parser key ["']([^"']+)["']:?""", r"`--\1`:", " ".join(message.split()))


def _plain_type(kind: str) -> str:
    kind = re.sub(r"\. (Got value|Given value).*", "", kind)
    kind = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", kind)
    kind = re.sub(r"(?:typing\.)?Literal\[(.*)\]", r"one of \1", kind)
    kind = re.sub(r"dot import path string.*", "the dotted path of a class", kind)
    return kind.replace("NoneType", "null").strip(" .")
