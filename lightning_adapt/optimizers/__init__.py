"""MAKE: optimizers of torch.optim with named parameter groups that fit the precision, and schedules.

The step itself is always torch's own; this room decides which parameters form which group, refuses or repairs
settings that the number precision cannot hold, and says what each optimizer is (``catalog``). It needs torch
only.

``adam`` takes weight decay as coupled L2, ``adamw`` decoupled from the moments: two optimizers, two names.

From LightningCLI, name a factory by its path; the module's parameter names and types are found again::

    optimizer:
      class_path: lightning_adapt.optimizers.adamw
      init_args: {lr: 1e-3, weight_decay: 0.1, layer_decay: 0.9}
"""

from __future__ import annotations

from lightning_adapt.optimizers._accumulators import adadelta, adafactor, adagrad, rmsprop
from lightning_adapt.optimizers._adam import adam, adamax, adamw, nadam, radam
from lightning_adapt.optimizers._catalog import OptimizerInfo, catalog, catalog_rows, list_optimizers
from lightning_adapt.optimizers._configure import OptimizerSetup, SchedulerSetup, configure
from lightning_adapt.optimizers._groups import parameter_groups
from lightning_adapt.optimizers._precision import PrecisionWarning
from lightning_adapt.optimizers._schedules import schedule
from lightning_adapt.optimizers._sgd import muon, muon_parameters, sgd

__all__ = [
    "OptimizerInfo",
    "OptimizerSetup",
    "PrecisionWarning",
    "SchedulerSetup",
    "adadelta",
    "adafactor",
    "adagrad",
    "adam",
    "adamax",
    "adamw",
    "catalog",
    "catalog_rows",
    "configure",
    "list_optimizers",
    "muon",
    "muon_parameters",
    "nadam",
    "parameter_groups",
    "radam",
    "rmsprop",
    "schedule",
    "sgd",
]
