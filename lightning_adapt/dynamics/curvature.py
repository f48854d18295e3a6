"""Curvature of a loss: Hessian-vector products, the largest eigenvalue, and both as the optimizer sees them.

Nothing here touches ``.grad``, the parameters or the global random numbers; every call waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from lightning_adapt.dynamics.canonical import CanonicalStep
from lightning_adapt.dynamics.rows import Circumstances, build_rows, members

Loss = Tensor | Callable[[], Tensor]
Operator = Callable[[Sequence[Tensor]], Sequence[Tensor]]
"""A symmetric linear map between lists of tensors of the same shapes."""


def hessian_operator(loss: Loss, parameters: Iterable[Tensor]) -> Operator:
    """The map ``vectors -> H vectors`` with ``H`` the Hessian of ``loss`` in ``parameters``.

    The gradient is taken once and differentiated again at every product (Pearlmutter 1994), so ``loss`` is
    evaluated once however many products follow.

    Args:
        loss: Scalar with its graph, or a function without arguments that returns one.
        parameters: Real leaf tensors that require a gradient; one that ``loss`` does not use gives zeros.

    Returns:
        A function from one tensor a parameter, of its shape, to the same.

    Raises:
        ValueError: If there is no parameter, one is complex, or ``loss`` is not one number.

    Example:
        >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> operator = hessian_operator((x**3).sum(), [x])
        >>> operator([torch.ones(2)])[0].tolist()
        [6.0, 12.0]

    References:
        Pearlmutter 1994, Fast exact multiplication by the Hessian
    """
    leaves = list(parameters)
    if not leaves:
        raise ValueError(
            "`parameters` must hold at least one tensor, got none; pass list(model.parameters())"
        )
    if any(leaf.is_complex() for leaf in leaves):
        raise ValueError("`parameters` must be real, got a complex one; leave it out")
    with torch.enable_grad():
        value = loss() if callable(loss) else loss
        if value.numel() != 1:
            raise ValueError(f"`loss` must be one number, got shape {tuple(value.shape)}; take its mean")
        gradients = _grad(value, leaves, differentiable=True)

    def product(vectors: Sequence[Tensor]) -> Sequence[Tensor]:
        # A gradient without a graph is constant (a linear loss): its row of the Hessian is zero.
        pairs = [(g, v) for g, v in zip(gradients, vectors, strict=True) if g.requires_grad]
        if not pairs:
            return [torch.zeros_like(leaf) for leaf in leaves]
        with torch.enable_grad():
            directional = torch.stack([(g * v).sum().to(value.device) for g, v in pairs]).sum()
        return _grad(directional, leaves, differentiable=False)

    return product


def hessian_vector_product(
    loss: Loss, parameters: Iterable[Tensor], vectors: Sequence[Tensor]
) -> Sequence[Tensor]:
    """``H vectors`` with ``H`` the Hessian of ``loss`` in ``parameters``, without forming ``H``.

    Args:
        loss: Scalar with its graph, or a function without arguments that returns one.
        parameters: Real leaf tensors that require a gradient.
        vectors: One tensor a parameter, of its shape; so is the result.

    Raises:
        ValueError: As `hessian_operator`.

    Example:
        >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> hessian_vector_product(lambda: x[0] * x[1], [x], [torch.tensor([3.0, 5.0])])[0].tolist()
        [5.0, 3.0]
    """
    return hessian_operator(loss, parameters)(vectors)


def exact_hessian(loss: Loss, parameters: Iterable[Tensor]) -> Tensor:
    """The whole Hessian of ``loss``, one product a column: for a few hundred elements at most.

    Args:
        loss: Scalar with its graph, or a function without arguments that returns one.
        parameters: Real leaf tensors that require a gradient, ``n`` elements together.

    Returns:
        Shape ``(n, n)``, symmetric, elements in the order of ``parameters``, each one flattened.

    Raises:
        ValueError: As `hessian_operator`.

    Example:
        >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> exact_hessian(lambda: x[0] * x[1] ** 2, [x]).tolist()
        [[0.0, 4.0], [4.0, 2.0]]
    """
    leaves = list(parameters)
    operator = hessian_operator(loss, leaves)
    flat = _flat(leaves)
    columns = [_flat(operator(_unflat(unit, leaves))) for unit in torch.eye(len(flat), dtype=flat.dtype)]
    hessian = torch.stack(columns, dim=1)
    # Symmetric in exact arithmetic; rounding must not make eigenvalues complex.
    return ((hessian + hessian.T) / 2).to(leaves[0].dtype)


def largest_eigenvalue(
    operator: Operator,
    like: Sequence[Tensor],
    *,
    max_products: int = 100,
    tolerance: float = 1e-4,
    seed: int = 0,
) -> float:
    """The algebraically largest eigenvalue of a symmetric ``operator``, by Lanczos iteration.

    Args:
        operator: Symmetric linear map between lists of tensors.
        like: Tensors of the shapes, dtypes and devices that it takes.
        max_products: Give the best estimate, a lower bound, after this many calls.
        tolerance: Stop when some eigenvalue is known to lie within ``tolerance * |estimate|``.
        seed: Of the random start, drawn from a generator of its own.

    Returns:
        The eigenvalue; NaN when ``operator`` returns something that is not finite.

    Raises:
        ValueError: If ``max_products`` or ``tolerance`` is not positive.

    Example:
        >>> scale = torch.tensor([1.0, -7.0, 3.0])
        >>> round(largest_eigenvalue(lambda vectors: [scale * vectors[0]], [scale]), 4)
        3.0

    References:
        Lanczos 1950; Paige 1972 (the residual bound); reorthogonalised in full
    """
    if max_products < 1:
        raise ValueError(f"`max_products` must be 1 or more, got {max_products}; 100 is usual")
    if not tolerance > 0:
        raise ValueError(f"`tolerance` must be positive, got {tolerance}; 1e-4 is usual")
    size = sum(tensor.numel() for tensor in like)
    start = torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    basis = [start / start.norm()]
    diagonal: list[float] = []
    off_diagonal: list[float] = []
    estimate = float("nan")
    for _ in range(min(max_products, size)):
        image = _flat(operator(_unflat(basis[-1], like)))
        if not bool(torch.isfinite(image).all()):
            return float("nan")
        diagonal.append(float(image @ basis[-1]))
        known = torch.stack(basis)
        for _ in range(2):  # once leaves rounding of the order of the part taken away, twice does not
            image = image - known.T @ (known @ image)
        rest = float(image.norm())
        beside = torch.diag(torch.tensor(off_diagonal, dtype=torch.float64), 1)
        middle = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
        values, vectors = torch.linalg.eigh(beside + middle + beside.T)
        estimate = float(values[-1])
        if rest * abs(float(vectors[-1, -1])) <= tolerance * abs(estimate) or rest == 0:
            break
        off_diagonal.append(rest)
        basis.append(image / rest)
    return estimate


def preconditioner_diagonal(optimizer: torch.optim.Optimizer) -> dict[Tensor, Tensor]:
    """The diagonal ``P`` that ``optimizer`` divided its last step by, ``update = -lr · first_moment / P``.

    Adam: ``P = (1 - beta1**t) · (sqrt(v_hat) + eps)``, so the bias correction of m is part of it. Where the
    gradient itself is divided (RMSprop, Adagrad) it is the denominator; without a second moment it is 1.

    Args:
        optimizer: Any optimizer with an update rule, after a step.

    Returns:
        Parameter to a tensor of its shape, float64; parameters that were never stepped are left out.

    Raises:
        ValueError: If its step is not one division an element (Muon, Rprop), or nothing is known of it.

    Example:
        >>> x = torch.tensor([3.0], requires_grad=True)
        >>> optimizer = torch.optim.Adam([x], betas=(0.9, 0.999), eps=0.0)
        >>> x.square().sum().backward()
        >>> optimizer.step()  # the gradient is 6, the factor of the first moment 1 / (1 - 0.9)
        >>> [round(p.item(), 6) for p in preconditioner_diagonal(optimizer).values()]
        [0.6]

    References:
        Cohen et al. 2022, Adaptive gradient methods at the edge of stability, https://arxiv.org/abs/2207.14484
    """
    listed = members(optimizer, {})
    found: dict[Tensor, Tensor] = {}
    for member, row in zip(listed, build_rows(optimizer, listed, Circumstances()), strict=True):
        if row.canonical is not None:
            found[member.parameter] = _diagonal(row.canonical, member.parameter)
    if not found:
        raise ValueError(
            f"`optimizer` must have an update rule and have stepped, got {type(optimizer).__name__} without "
            "a step to read; step first, or register a rule with lightning_adapt.dynamics.register_rule"
        )
    return found


def preconditioned_sharpness(
    loss: Loss,
    optimizer: torch.optim.Optimizer,
    parameters: Iterable[Tensor] | None = None,
    *,
    max_products: int = 100,
    tolerance: float = 1e-3,
    seed: int = 0,
) -> float:
    """The largest eigenvalue of ``P^-1 H``, the curvature as the optimizer's step sees it.

    ``P`` is `preconditioner_diagonal`, ``H`` the Hessian of ``loss``. Gradient descent is stable below
    ``2 / lr``, Adam with frozen ``P`` below ``(2 + 2·beta1) / ((1 - beta1)·lr)``.

    Args:
        loss: Scalar with its graph, or a function without arguments that returns one.
        optimizer: After a step.
        parameters: Which ones; by default all that ``optimizer`` has stepped.
        max_products: At most this many Hessian-vector products.
        tolerance: Relative, of the eigenvalue.
        seed: Of the random start.

    Returns:
        The eigenvalue, in 1 / learning rate.

    Raises:
        ValueError: As `hessian_operator`, `largest_eigenvalue` and `preconditioner_diagonal`, or if
            ``optimizer`` has not stepped one of ``parameters``.

    Example:
        >>> x = torch.tensor([3.0], requires_grad=True)
        >>> optimizer = torch.optim.RMSprop([x], lr=0.1, alpha=0.0, eps=0.0)
        >>> x.square().sum().backward()
        >>> optimizer.step()
        >>> round(preconditioned_sharpness(lambda: x.square().sum(), optimizer), 4)  # H = 2, P = |g| = 6
        0.3333

    References:
        Cohen et al. 2022, Adaptive gradient methods at the edge of stability, https://arxiv.org/abs/2207.14484
    """
    diagonal = preconditioner_diagonal(optimizer)
    leaves = list(diagonal) if parameters is None else list(parameters)
    if any(leaf not in set(diagonal) for leaf in leaves):
        raise ValueError(
            "`parameters` must have been stepped by `optimizer`, got one that was not; leave it out"
        )
    product = hessian_operator(loss, leaves)
    # P^-1/2 H P^-1/2 has the eigenvalues of P^-1 H and is symmetric.
    scales = [diagonal[leaf].rsqrt().to(leaf.dtype) for leaf in leaves]

    def operator(vectors: Sequence[Tensor]) -> Sequence[Tensor]:
        images = product([v * s for v, s in zip(vectors, scales, strict=True)])
        return [image * s for image, s in zip(images, scales, strict=True)]

    return largest_eigenvalue(operator, leaves, max_products=max_products, tolerance=tolerance, seed=seed)


def _grad(value: Tensor, leaves: Sequence[Tensor], *, differentiable: bool) -> Sequence[Tensor]:
    return torch.autograd.grad(
        value,
        leaves,
        retain_graph=True,
        create_graph=differentiable,
        allow_unused=True,
        materialize_grads=True,
    )


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    """One vector on the host, float64: the small linear algebra is done there whatever the device."""
    return torch.cat([tensor.detach().reshape(-1).cpu().double() for tensor in tensors])


def _unflat(vector: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    parts = torch.split(vector, [tensor.numel() for tensor in like])
    return [part.view(tensor.shape).to(tensor) for part, tensor in zip(parts, like, strict=True)]


def _diagonal(step: CanonicalStep, parameter: Tensor) -> Tensor:
    """``P`` of one parameter."""
    if step.second_moment is None and step.numerator is not None:
        raise ValueError(
            "`optimizer` must divide each element of its step by a number, got one that does not (Muon, "
            "Rprop); use `largest_eigenvalue` of the plain Hessian"
        )
    diagonal = torch.ones(parameter.shape, dtype=torch.float64)
    if step.effective_lr is not None:
        diagonal = _wide(step.lr) / _wide(step.effective_lr)
    elif step.second_moment is not None and float(step.adaptive):
        diagonal = _denominator(step)
    if step.gradient_factor == 0 and step.numerator is None:
        diagonal = diagonal / _wide(step.first_moment_factor)
    return diagonal.to(parameter.device)


def _denominator(step: CanonicalStep) -> Tensor:
    assert step.second_moment is not None
    eps = 0.0 if step.eps is None else float(step.eps)
    stored = _wide(step.second_moment)
    if step.second_moment_is_root:
        return stored
    hat = stored * float(step.second_moment_correction)
    if step.centering is not None:
        hat = (hat - _wide(step.centering).square()).clamp_min(0.0)
    if step.eps_placement == "inside":
        return (hat + eps).sqrt()
    root = hat.sqrt()
    return root.clamp_min(eps) if step.eps_placement == "clamp" else root + eps


def _wide(x: Tensor | float) -> Tensor:
    return torch.as_tensor(x).detach().cpu().double()
