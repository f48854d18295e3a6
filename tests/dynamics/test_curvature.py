"""Curvature against dense float64 Hessians."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from lightning_adapt.dynamics import (
    exact_hessian,
    hessian_operator,
    hessian_vector_product,
    largest_eigenvalue,
    preconditioned_sharpness,
    preconditioner_diagonal,
)


def problem(dtype: torch.dtype = torch.float64) -> tuple[nn.Module, Callable[[], Tensor]]:
    """A small network with a loss whose Hessian has negative eigenvalues too."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).to(dtype)
    x, y = torch.randn(6, 3, dtype=dtype), torch.randn(6, 2, dtype=dtype)
    return model, lambda: (model(x) - y).square().mean()


def dense(model: nn.Module, loss: Callable[[], Tensor]) -> Tensor:
    """The Hessian as torch's own double backward makes it, one row at a time."""
    parameters = list(model.parameters())
    gradient = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss(), parameters, create_graph=True)])
    rows = [torch.autograd.grad(g, parameters, retain_graph=True) for g in gradient]
    return torch.stack([torch.cat([part.reshape(-1) for part in row]) for row in rows])


def flat(tensors: object) -> Tensor:
    return torch.cat([t.reshape(-1) for t in tensors])  # type: ignore[attr-defined]


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_product_is_the_dense_hessian_times_the_vector(dtype: torch.dtype, atol: float) -> None:
    model, loss = problem(dtype)
    parameters = list(model.parameters())
    vectors = [torch.randn_like(p) for p in parameters]
    found = hessian_vector_product(loss, parameters, vectors)
    assert [f.shape for f in found] == [p.shape for p in parameters]
    torch.testing.assert_close(flat(found), dense(model, loss) @ flat(vectors), atol=atol, rtol=0)


def test_exact_hessian_is_the_dense_one_and_leaves_gradients_and_random_numbers_alone() -> None:
    model, loss = problem()
    before = torch.get_rng_state()
    with torch.no_grad():  # as inside an optimizer hook
        found = exact_hessian(loss, model.parameters())
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(found, found.T)
    torch.testing.assert_close(found, dense(model, loss), atol=1e-12, rtol=0)


def test_a_loss_with_its_graph_serves_many_products() -> None:
    model, loss = problem()
    parameters = list(model.parameters())
    operator = hessian_operator(loss(), parameters)
    vectors = [torch.ones_like(p) for p in parameters]
    assert all(torch.equal(a, b) for a, b in zip(operator(vectors), operator(vectors), strict=True))


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (lambda x, y: (3 * x).sum(), [0.0, 0.0]),  # linear
        (lambda x, y: (x**2).sum() + 5 * y.sum(), [2.0, 0.0]),  # linear in one
        (lambda x, y: (y**2).sum(), [0.0, 2.0]),  # does not use the other
    ],
)
def test_where_there_is_no_curvature_the_product_is_zero(
    loss: Callable[[Tensor, Tensor], Tensor], expected: list[float]
) -> None:
    x, y = (torch.ones(1, requires_grad=True) for _ in range(2))
    found = hessian_vector_product(loss(x, y), [x, y], [torch.ones(1), torch.ones(1)])
    assert [v.item() for v in found] == expected


def test_a_linear_loss_has_no_curvature_at_all() -> None:
    x = torch.ones(3, requires_grad=True)
    assert exact_hessian((3 * x).sum(), [x]).tolist() == [[0.0] * 3] * 3
    assert largest_eigenvalue(hessian_operator(x.sum(), [x]), [x]) == 0.0


def test_largest_eigenvalue_of_a_network() -> None:
    model, loss = problem()
    expected = torch.linalg.eigvalsh(dense(model, loss))
    assert expected[0] < 0 < expected[-1]
    parameters = list(model.parameters())
    operator = hessian_operator(loss, parameters)
    assert largest_eigenvalue(operator, parameters, tolerance=1e-10) == pytest.approx(
        expected[-1].item(), rel=1e-9
    )


@pytest.mark.parametrize(
    "eigenvalues",
    [
        [5.0],
        [2.0, 2.0, 2.0],  # the Krylov space ends after one product
        [0.0, 0.0],
        [-3.0, -2.0, -100.0],  # largest in size is not the largest
        [1e12, 1.0, 1e-12],
        list(range(40)),
        [1.0, 1.0001, 0.5, -9.0],
    ],
    ids=str,
)
def test_largest_eigenvalue_is_the_algebraic_one_in_any_basis(eigenvalues: list[float]) -> None:
    values = torch.tensor(eigenvalues, dtype=torch.float64)
    n = len(values)
    q = torch.linalg.qr(torch.randn(n, n, generator=torch.Generator().manual_seed(1), dtype=torch.float64))[0]
    matrix = q @ torch.diag(values) @ q.T
    found = largest_eigenvalue(lambda v: [matrix @ v[0]], [values], tolerance=1e-8)
    assert found == pytest.approx(max(eigenvalues), rel=1e-7, abs=1e-12)


def test_few_products_give_a_lower_bound_and_tolerance_stops_early() -> None:
    scale = torch.linspace(0, 1, 200, dtype=torch.float64)
    calls = 0

    def operator(vectors: object) -> list[Tensor]:
        nonlocal calls
        calls += 1
        return [scale * vectors[0]]  # type: ignore[index]

    assert largest_eigenvalue(operator, [scale], max_products=3) < 1.0
    assert calls == 3
    assert largest_eigenvalue(operator, [scale], tolerance=1e-2) == pytest.approx(1.0, rel=1e-2)
    assert calls < 50


def test_an_operator_that_overflows_gives_nan() -> None:
    assert torch.tensor(largest_eigenvalue(lambda v: [v[0] * torch.inf], [torch.ones(2)])).isnan()


@pytest.mark.parametrize(
    ("make", "bias_correction"),
    [
        (lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.9, 0.99), eps=1e-3), 1 - 0.9**5),
        (lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True), 1 - 0.9**5),
        (lambda p: torch.optim.Adamax(p, lr=0.01), 1 - 0.9**5),
        (lambda p: torch.optim.RMSprop(p, lr=0.01), None),
        (lambda p: torch.optim.RMSprop(p, lr=0.01, centered=True, eps=1e-2), None),
        (lambda p: torch.optim.Adagrad(p, lr=0.1), None),
        (lambda p: torch.optim.Adadelta(p, lr=0.1), None),
        (lambda p: torch.optim.SGD(p, lr=0.1), None),
        (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), None),
    ],
    ids=["adam", "amsgrad", "adamax", "rmsprop", "centered", "adagrad", "adadelta", "sgd", "momentum"],
)
def test_preconditioner_is_what_the_step_divided_by(
    make: Callable[[list[Tensor]], torch.optim.Optimizer], bias_correction: float | None
) -> None:
    """From the change of the parameters in the last of five steps, and the moment or gradient behind it."""
    model, loss = problem()
    parameters: list[Tensor] = list(model.parameters())
    optimizer = make(parameters)
    before: list[Tensor] = []
    for _ in range(5):
        before = [p.detach().clone() for p in parameters]
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    lr = optimizer.param_groups[0]["lr"]
    found = preconditioner_diagonal(optimizer)
    for p, start in zip(parameters, before, strict=True):
        state = optimizer.state[p]
        first = state["exp_avg"] if bias_correction else state.get("momentum_buffer", p.grad)
        torch.testing.assert_close(-lr * first / found[p], p.detach() - start, rtol=1e-6, atol=1e-12)
    expected = torch.linalg.eigvals(
        dense(model, loss) / flat(found[p] for p in parameters)[:, None]
    ).real.max()
    sharpness = preconditioned_sharpness(loss, optimizer, tolerance=1e-9)
    assert sharpness == pytest.approx(expected.item(), rel=1e-7)


def test_sharpness_of_some_parameters_only() -> None:
    model, loss = problem()
    optimizer = torch.optim.SGD(model.parameters())
    loss().backward()
    optimizer.step()
    expected = torch.linalg.eigvalsh(dense(model, loss)[-2:, -2:]).max()
    found = preconditioned_sharpness(loss, optimizer, [list(model.parameters())[-1]], tolerance=1e-9)
    assert found == pytest.approx(expected.item(), rel=1e-7)


def test_radam_without_its_denominator_and_adafactor_with_a_clamped_one() -> None:
    x = torch.tensor([[2.0, 3.0]], dtype=torch.float64, requires_grad=True)
    early = torch.optim.RAdam([x], betas=(0.5, 0.999))
    x.sum().backward()
    early.step()
    assert preconditioner_diagonal(early)[x].tolist() == [[0.5, 0.5]]  # 1 / first_moment_factor
    if hasattr(torch.optim, "Adafactor"):
        v = torch.tensor([2.0, 0.0], requires_grad=True)
        clamped = torch.optim.Adafactor([v], eps=(1e-3, 1e-3))
        v.grad = torch.tensor([0.5, 0.0])
        clamped.step()
        assert preconditioner_diagonal(clamped)[v].tolist() == pytest.approx([0.5, 1e-3])


def _unstepped() -> object:
    return preconditioner_diagonal(torch.optim.Adam([torch.ones(1, requires_grad=True)]))


def _rprop() -> object:
    x = torch.ones(1, requires_grad=True)
    optimizer = torch.optim.Rprop([x])
    x.sum().backward()
    optimizer.step()
    return preconditioner_diagonal(optimizer)


def _stranger() -> object:
    x, y = (torch.ones(1, requires_grad=True) for _ in range(2))
    optimizer = torch.optim.SGD([x])
    x.sum().backward()
    optimizer.step()
    return preconditioned_sharpness(y.sum(), optimizer, [y])


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: hessian_operator(torch.ones(()), []), "`parameters` must hold at least one tensor"),
        (lambda: hessian_operator(torch.ones(()), [torch.ones(1) * 1j]), "`parameters` must be real"),
        (
            lambda: hessian_operator(lambda: torch.ones(2), [torch.ones(1)]),
            r"`loss` must be one number, got shape \(2,\)",
        ),
        (
            lambda: largest_eigenvalue(list, [torch.ones(1)], max_products=0),
            "`max_products` must be 1 or more",
        ),
        (lambda: largest_eigenvalue(list, [torch.ones(1)], tolerance=0.0), "`tolerance` must be positive"),
        (_unstepped, "`optimizer` must have an update rule and have stepped, got Adam"),
        (_rprop, "must divide each element of its step by a number"),
        (_stranger, "`parameters` must have been stepped by `optimizer`"),
    ],
)
def test_what_is_refused_and_how(call: Callable[[], object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        call()
