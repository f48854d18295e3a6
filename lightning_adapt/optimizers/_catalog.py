"""What is known about each optimizer of this room: one row per factory, plain data, no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal

from lightning_adapt._text import unknown_name

EpsPlacement = Literal["outside", "inside", "clamp", "gradient", "norm", "none"]


@dataclass(frozen=True)
class OptimizerInfo:
    """One row of the optimizer catalog.

    Args:
        name: Name of the factory, for example ``"adamw"``.
        class_name: Name of the class in ``torch.optim``.
        summary: One line on what it does.
        paper: Where it was published: author, year and where to read it.
        eps_placement: ``"outside"``: ``sqrt(v) + eps``; ``"inside"``: ``sqrt(v + eps)``; ``"clamp"``:
            ``max(sqrt(v), eps)``; ``"gradient"``: ``max(beta2 * u, |g| + eps)``; ``"norm"``: the norm of a
            whole matrix is kept above ``eps``; ``"none"``: it has no epsilon.
        decay: What ``weight_decay`` is by default: ``"l2"`` is added to the gradient and goes through the
            moments, ``"decoupled"`` shrinks the parameter by ``lr * weight_decay`` beside the step.
        state_keys: Keys of ``optimizer.state[parameter]`` after a step with default options.
        extra_state_keys: State key -> the option that creates it.
        first_moment_key: State key of the first moment, if it stores one.
        second_moment_key: State key of the second moment, if it stores one.
        supports_fused: Has a fused kernel (CPU and CUDA).
        supports_foreach: Has a multi-tensor implementation.
        supports_capturable: Can be captured in a CUDA graph.
        supports_sparse: Takes sparse gradients.
        since: First torch version that has it, where that is newer than the oldest this package takes.
        defaults: torch's default of every hyperparameter.
    """

    name: str
    class_name: str
    summary: str
    paper: str
    eps_placement: EpsPlacement
    decay: Literal["l2", "decoupled"]
    state_keys: tuple[str, ...]
    first_moment_key: str | None
    second_moment_key: str | None
    defaults: Mapping[str, Any]
    extra_state_keys: Mapping[str, str] = field(default_factory=dict)
    supports_fused: bool = False
    supports_foreach: bool = True
    supports_capturable: bool = False
    supports_sparse: bool = False
    since: str = "2.4"

    @property
    def has_eps(self) -> bool:
        """Whether the optimizer takes an epsilon."""
        return self.eps_placement != "none"


_BETAS = {"betas": (0.9, 0.999), "eps": 1e-8}
_ADAM_STATE = ("step", "exp_avg", "exp_avg_sq")

_ROWS = (
    OptimizerInfo(
        name="adadelta",
        class_name="Adadelta",
        summary="step size from the ratio of past updates to past gradients; needs no learning rate",
        paper="Zeiler 2012, arXiv:1212.5701",
        eps_placement="inside",
        decay="l2",
        state_keys=("step", "square_avg", "acc_delta"),
        first_moment_key=None,
        second_moment_key="square_avg",
        supports_capturable=True,
        defaults={"lr": 1.0, "rho": 0.9, "eps": 1e-6, "weight_decay": 0},
    ),
    OptimizerInfo(
        name="adafactor",
        class_name="Adafactor",
        summary="second moment of a matrix kept as one row and one column; update clipped by its rms",
        paper="Shazeer and Stern 2018, arXiv:1804.04235",
        eps_placement="clamp",
        decay="decoupled",
        # A matrix stores row_var and col_var, a vector stores variance.
        state_keys=("step", "row_var", "col_var", "variance"),
        first_moment_key=None,
        second_moment_key="variance",
        since="2.5",
        defaults={"lr": 1e-2, "beta2_decay": -0.8, "eps": (None, 1e-3), "d": 1.0, "weight_decay": 0.0},
    ),
    OptimizerInfo(
        name="adagrad",
        class_name="Adagrad",
        summary="divides by the root of the sum of all squared gradients: step sizes only ever fall",
        paper="Duchi, Hazan and Singer 2011, JMLR 12",
        eps_placement="outside",
        decay="l2",
        state_keys=("step", "sum"),
        first_moment_key=None,
        second_moment_key="sum",
        supports_fused=True,
        supports_sparse=True,
        defaults={"lr": 1e-2, "lr_decay": 0, "weight_decay": 0, "initial_accumulator_value": 0, "eps": 1e-10},
    ),
    OptimizerInfo(
        name="adam",
        class_name="Adam",
        summary="running means of gradient and squared gradient; weight decay is coupled L2",
        paper="Kingma and Ba 2015, arXiv:1412.6980",
        eps_placement="outside",
        decay="l2",
        state_keys=_ADAM_STATE,
        extra_state_keys={"max_exp_avg_sq": "amsgrad"},
        first_moment_key="exp_avg",
        second_moment_key="exp_avg_sq",
        supports_fused=True,
        supports_capturable=True,
        defaults={"lr": 1e-3, **_BETAS, "weight_decay": 0, "amsgrad": False},
    ),
    OptimizerInfo(
        name="adamax",
        class_name="Adamax",
        summary="Adam with a decaying maximum of |gradient| in place of the second moment",
        paper="Kingma and Ba 2015, arXiv:1412.6980, section 7",
        eps_placement="gradient",
        decay="l2",
        state_keys=("step", "exp_avg", "exp_inf"),
        first_moment_key="exp_avg",
        second_moment_key="exp_inf",
        supports_capturable=True,
        defaults={"lr": 2e-3, **_BETAS, "weight_decay": 0},
    ),
    OptimizerInfo(
        name="adamw",
        class_name="AdamW",
        summary="Adam with weight decay decoupled from the moments",
        paper="Loshchilov and Hutter 2019, arXiv:1711.05101",
        eps_placement="outside",
        decay="decoupled",
        state_keys=_ADAM_STATE,
        extra_state_keys={"max_exp_avg_sq": "amsgrad"},
        first_moment_key="exp_avg",
        second_moment_key="exp_avg_sq",
        supports_fused=True,
        supports_capturable=True,
        defaults={"lr": 1e-3, **_BETAS, "weight_decay": 1e-2, "amsgrad": False},
    ),
    OptimizerInfo(
        name="muon",
        class_name="Muon",
        summary="orthogonalized momentum for hidden weight matrices; no per-element step size",
        paper="Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/",
        eps_placement="norm",
        decay="decoupled",
        state_keys=("momentum_buffer",),
        first_moment_key="momentum_buffer",
        second_moment_key=None,
        supports_foreach=False,
        since="2.9",
        defaults={
            "lr": 1e-3,
            "weight_decay": 0.1,
            "momentum": 0.95,
            "nesterov": True,
            "ns_coefficients": (3.4445, -4.775, 2.0315),
            "eps": 1e-7,
            "ns_steps": 5,
            "adjust_lr_fn": None,
        },
    ),
    OptimizerInfo(
        name="nadam",
        class_name="NAdam",
        summary="Adam with Nesterov momentum",
        paper="Dozat 2016, ICLR workshop",
        eps_placement="outside",
        decay="l2",
        state_keys=("step", "mu_product", "exp_avg", "exp_avg_sq"),
        first_moment_key="exp_avg",
        second_moment_key="exp_avg_sq",
        supports_capturable=True,
        defaults={
            "lr": 2e-3,
            **_BETAS,
            "weight_decay": 0,
            "momentum_decay": 4e-3,
            "decoupled_weight_decay": False,
        },
    ),
    OptimizerInfo(
        name="radam",
        class_name="RAdam",
        summary="Adam that starts as plain momentum until v can be trusted; eps joins the uncorrected root",
        paper="Liu et al. 2020, arXiv:1908.03265",
        eps_placement="outside",
        decay="l2",
        state_keys=_ADAM_STATE,
        first_moment_key="exp_avg",
        second_moment_key="exp_avg_sq",
        supports_capturable=True,
        defaults={"lr": 1e-3, **_BETAS, "weight_decay": 0, "decoupled_weight_decay": False},
    ),
    OptimizerInfo(
        name="rmsprop",
        class_name="RMSprop",
        summary="divides by the root of a running mean of squared gradients, without bias correction",
        paper="Tieleman and Hinton 2012, Coursera lecture 6.5; Graves 2013, arXiv:1308.0850 (centered)",
        eps_placement="outside",
        decay="l2",
        state_keys=("step", "square_avg"),
        extra_state_keys={"grad_avg": "centered", "momentum_buffer": "momentum"},
        first_moment_key=None,
        second_moment_key="square_avg",
        supports_capturable=True,
        defaults={
            "lr": 1e-2,
            "alpha": 0.99,
            "eps": 1e-8,
            "weight_decay": 0,
            "momentum": 0,
            "centered": False,
        },
    ),
    OptimizerInfo(
        name="sgd",
        class_name="SGD",
        summary="gradient descent, with momentum if asked for: one step size for all elements",
        paper="Robbins and Monro 1951, Ann. Math. Statist. 22; Sutskever et al. 2013, ICML (momentum)",
        eps_placement="none",
        decay="l2",
        state_keys=(),
        extra_state_keys={"momentum_buffer": "momentum"},
        first_moment_key="momentum_buffer",
        second_moment_key=None,
        supports_fused=True,
        supports_sparse=True,
        defaults={"lr": 1e-3, "momentum": 0, "dampening": 0, "weight_decay": 0, "nesterov": False},
    ),
)

#: Factory name -> its row, in alphabetical order.
catalog: dict[str, OptimizerInfo] = {row.name: row for row in _ROWS}


def list_optimizers(pattern: str = "*") -> list[str]:
    """Names in the catalog that match a glob pattern, in alphabetical order.

    Args:
        pattern: Glob over the names, as a shell would read it.

    Returns:
        At least one name.

    Raises:
        ValueError: If no name matches.

    Example:
        >>> list_optimizers("*adam")
        ['adam', 'nadam', 'radam']
    """
    found = [name for name in catalog if fnmatchcase(name, pattern)]
    if not found:
        raise ValueError(unknown_name("pattern", pattern, catalog))
    return found


def catalog_rows(pattern: str = "*") -> list[dict[str, Any]]:
    """Give the catalog as flat rows for a table.

    Args:
        pattern: Glob over the names.

    Returns:
        One dict per optimizer, all with the same keys: text, numbers and booleans.

    Raises:
        ValueError: If no name matches.

    Example:
        >>> row = catalog_rows("adamw")[0]
        >>> row["optimizer"], row["weight decay"], row["eps"], row["fused"]
        ('adamw', 'decoupled', 1e-08, True)
    """
    return [
        {
            "optimizer": info.name,
            "torch.optim": info.class_name,
            "lr": info.defaults["lr"],
            "eps": info.defaults.get("eps"),
            "eps placement": info.eps_placement,
            "weight decay": info.decay,
            "state": ", ".join((*info.state_keys, *(f"[{key}]" for key in info.extra_state_keys))),
            "fused": info.supports_fused,
            "foreach": info.supports_foreach,
            "capturable": info.supports_capturable,
            "sparse": info.supports_sparse,
            "summary": info.summary,
            "paper": info.paper,
        }
        for info in (catalog[name] for name in list_optimizers(pattern))
    ]
