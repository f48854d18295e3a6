"""A small causal transformer that predicts the next character of a text."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from math import ceil
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torchmetrics import MeanMetric

from lightning_adapt._text import unknown_name
from lightning_adapt.recipes._module import RecipeModule
from lightning_adapt.recipes.nlp.text_data import IGNORED, UNKNOWN, encode

Architecture = Literal["gpt2", "llama"]


def build_decoder(
    architecture: Architecture,
    *,
    vocabulary_size: int,
    layers: int,
    heads: int,
    width: int,
    context: int,
    dropout: float = 0.0,
) -> Any:
    """Build a randomly initialised causal language model of `transformers`, without a download.

    Args:
        architecture: ``"gpt2"`` (learned positions, LayerNorm, biases, one matrix for query, key and value)
            or ``"llama"`` (rotary positions, RMSNorm, SwiGLU, no biases); both tie in- and output embeddings.
        vocabulary_size: Number of tokens.
        layers: Transformer blocks.
        heads: Attention heads per block; must divide ``width``.
        width: Size of the hidden state.
        context: Longest input, in tokens.
        dropout: Share of values dropped while training.

    Returns:
        A module that maps token ids ``(batch, time)`` to an output with ``.logits`` of shape
        ``(batch, time, vocabulary_size)``.

    Example:
        >>> model = build_decoder("gpt2", vocabulary_size=65, layers=1, heads=2, width=8, context=4)
        >>> model(torch.zeros(3, 4, dtype=torch.long)).logits.shape
        torch.Size([3, 4, 65])
    """
    # Imported late: reading `--help` should not take the seconds it needs. Any: its types vary by version.
    transformers: Any = import_module("transformers")
    shared = {"vocab_size": vocabulary_size, "use_cache": False, "bos_token_id": None, "eos_token_id": None}
    if architecture == "gpt2":
        return transformers.GPT2LMHeadModel(
            transformers.GPT2Config(
                n_layer=layers,
                n_head=heads,
                n_embd=width,
                n_positions=context,
                resid_pdrop=dropout,
                embd_pdrop=dropout,
                attn_pdrop=dropout,
                activation_function="gelu_pytorch_tanh",  # GPT-2's own gelu as one kernel instead of eight
                **shared,
            )
        )
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            hidden_size=width,
            # Three matrices instead of two, so 2/3 of the usual 4 x width; a multiple of 8 for the hardware.
            intermediate_size=8 * ceil(width / 3),
            max_position_embeddings=context,
            attention_dropout=dropout,
            tie_word_embeddings=True,
            **shared,
        )
    )


class CharLM(RecipeModule):
    """A causal transformer, trained from scratch to predict the next character.

    Logs ``train/loss`` at every step and ``val/loss``, the mean over all validation characters, both in
    nats per character; a model that knows nothing is at ``ln(vocabulary size)``, about 4.2 to 4.6.

    The default is GPT-2, whose fused ``c_attn.bias`` shows what epsilon is for: softmax does not see the
    key third of it, so that third gets no gradient but rounding noise and sits on Adam's epsilon floor.

    Args:
        architecture: ``"gpt2"`` or ``"llama"``.
        layers: Transformer blocks.
        heads: Attention heads per block; must divide ``width``.
        width: Size of the hidden state.
        context: Longest input, in characters; at least the data module's ``context``.
        dropout: Share of values dropped while training.
        vocabulary: The known characters; ``None`` takes those of the data module.
        optimizer: Name in the optimizer catalog.
        lr: Learning rate; ``None`` takes the preset for that optimizer.
        weight_decay: ``None`` takes the preset for that optimizer.
        schedule: ``"constant"``, ``"linear"``, ``"cosine"`` or ``"inverse_sqrt"``.
        warmup_steps: Optimizer steps over which the learning rate rises linearly.
        optimizer_options: Further keyword arguments of the optimizer factory (``betas``, ``eps``, …).

    Raises:
        ValueError: If a name is not known or a number is out of range.
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "sgd": {"lr": 0.5, "momentum": 0.9},
        "adagrad": {"lr": 0.06},
        "rmsprop": {"lr": 5e-3, "alpha": 0.99},
        "adam": {"lr": 5e-3, "betas": (0.9, 0.99)},
        "adamw": {"lr": 5e-3, "betas": (0.9, 0.99), "weight_decay": 0.1},
        "nadam": {"lr": 5e-3, "betas": (0.9, 0.99)},
        "radam": {"lr": 5e-3, "betas": (0.9, 0.99)},
        "adamax": {"lr": 1e-2, "betas": (0.9, 0.99)},
        "adadelta": {"lr": 5.0},
        "adafactor": {"lr": 0.1},
    }

    def __init__(
        self,
        architecture: Architecture = "gpt2",
        layers: int = 2,
        heads: int = 4,
        width: int = 64,
        context: int = 64,
        dropout: float = 0.0,
        vocabulary: str | None = None,
        optimizer: str = "adamw",
        lr: float | None = None,
        weight_decay: float | None = None,
        schedule: str = "cosine",
        warmup_steps: int = 100,
        optimizer_options: dict[str, Any] | None = None,
    ) -> None:
        # The schedules end at a tenth of the learning rate, as is usual for language models.
        options = {"final_lr_frac": 0.1, **(optimizer_options or {})}
        super().__init__(optimizer, lr, weight_decay, schedule, warmup_steps, options)
        if architecture not in get_args(Architecture):
            raise ValueError(unknown_name("model.architecture", architecture, get_args(Architecture)))
        for name, value in {"layers": layers, "heads": heads, "width": width, "context": context}.items():
            if value < 1:
                raise ValueError(
                    f"`model.{name}` must be 1 or more, got {value}; leave it out for the default"
                )
        if width % heads or (architecture == "llama" and width // heads % 2):
            raise ValueError(
                "`model.width` must be a multiple of `model.heads` (of twice that for llama), "
                f"got {width} and {heads}; 16 to 64 per head is usual"
            )
        self.save_hyperparameters()
        self.context, self.vocabulary = context, vocabulary
        self.architecture: Architecture = architecture
        self._size: dict[str, Any] = {
            "layers": layers,
            "heads": heads,
            "width": width,
            "context": context,
            "dropout": dropout,
        }
        self.model: Any = None
        self.val_loss = MeanMetric()

    def configure_model(self) -> None:
        """Build the network once the characters are known: from the checkpoint, the argument or the data."""
        if self.model is not None:
            return
        data = vars(self._trainer).get("datamodule") if self._trainer is not None else None
        if self.vocabulary is None:
            if self._trainer is None:
                return  # `load_from_checkpoint`: the vocabulary arrives in `on_load_checkpoint`.
            self.vocabulary = getattr(data, "vocabulary", None)
        if not self.vocabulary:
            raise ValueError(
                "`model.vocabulary` must hold the known characters, got none, and none from a data module; "
                "train on a TextDataModule or give the characters"
            )
        if getattr(data, "context", 0) > self.context:
            raise ValueError(
                f"`data.context` must be at most `model.context`, got {getattr(data, 'context', 0)} and "
                f"{self.context}; give both the same"
            )
        self.model = build_decoder(self.architecture, vocabulary_size=len(self.vocabulary) + 1, **self._size)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the vocabulary with the weights: neither is of use without the other."""
        checkpoint["vocabulary"] = self.vocabulary

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the vocabulary the weights were trained with, and refuse to train them on other characters."""
        vocabulary = checkpoint["vocabulary"]
        if self.vocabulary not in (None, vocabulary):
            raise ValueError(
                f"`ckpt_path` must be a checkpoint of a model of the same characters, got {len(vocabulary)} "
                f"where there are {len(self.vocabulary or '')} now; go on with the text it was trained on"
            )
        self.vocabulary = vocabulary
        self.configure_model()

    def forward(self, ids: Tensor) -> Tensor:
        """Predict the next character at every position.

        Args:
            ids: Shape ``(batch, time)``, int64, ``time <= context``.

        Returns:
            Logits, shape ``(batch, time, vocabulary size)``.
        """
        assert self.model is not None, "configure_model() has not been called"
        logits: Tensor = self.model(input_ids=ids).logits
        return logits

    def _loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        inputs, targets = batch
        logits = self(inputs).flatten(0, 1)
        return cross_entropy(logits.float(), targets.flatten(), ignore_index=IGNORED)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the mean loss of the batch."""
        loss = self._loss(batch)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Add the batch to the mean over all characters."""
        self.val_loss.update(self._loss(batch), weight=(batch[1] != IGNORED).sum())
        self.log("val/loss", self.val_loss, prog_bar=True)

    @torch.no_grad()
    def generate(self, prompt: str, length: int = 200, seed: int = 0) -> str:
        """Continue ``prompt`` by drawing one character after the other from the model.

        Args:
            prompt: At least one character; those the model does not know count as unknown.
            length: Characters to add.
            seed: Start of the random numbers; the global ones are left alone.

        Returns:
            The added characters.
        """
        if not prompt:
            raise ValueError("`prompt` must hold a character to go on from, got ''; a newline will do")
        assert self.vocabulary is not None, "configure_model() has not been called"
        was_training = self.training
        self.eval()
        generator = torch.Generator().manual_seed(seed)
        ids = encode(prompt, self.vocabulary).long()
        for _ in range(length):
            logits = self(ids[None, -self.context :].to(self.device))[0, -1].float().cpu()
            logits[UNKNOWN] = -torch.inf
            ids = torch.cat([ids, torch.multinomial(logits.softmax(0), 1, generator=generator)])
        self.train(was_training)
        return "".join(self.vocabulary[place - 1] for place in ids[len(ids) - length :].tolist())
