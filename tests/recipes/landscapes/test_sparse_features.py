"""Rare rows keep large rates; the three models use their rows as they say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from lightning_adapt.recipes.landscapes._lab import Lab
from lightning_adapt.recipes.landscapes._sparse_models import (
    GraphWords,
    Links,
    NextWord,
    adjacency,
    read_graph,
)
from lightning_adapt.recipes.landscapes._study import Outcome
from lightning_adapt.recipes.landscapes.sparse_features import SparseFeatures


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    return SparseFeatures(points=(10, 60), seeds=2).run(Lab())


def test_words_never_seen_keep_the_full_rate(outcome: Outcome) -> None:
    never = [finding for finding in outcome.findings if "never seen" in finding.claim]
    assert [finding.predicted for finding in never] == pytest.approx([1e7, 1e6, 1e6])
    assert [finding.measured for finding in never] == pytest.approx([1e7, 1e6, 1e6], rel=1e-6)


@pytest.mark.parametrize(
    ("task", "bound", "late"),
    [("words of a text", 13, 5), ("words in nodes", 6, 10), ("nodes of the", 3.5, 1.25)],
)
def test_rare_rows_have_larger_rates(outcome: Outcome, task: str, bound: float, late: float) -> None:
    mine = [finding for finding in outcome.findings if finding.claim.startswith(task)]
    assert len(mine) == 6
    for first, last in zip(mine[::2], mine[1::2], strict=True):
        assert bound < first.predicted < first.measured
        assert last.predicted == 1.25
        assert last.measured > late
    assert all(finding.holds for finding in outcome.findings)


def test_rates_fall_with_uses_as_the_figures_show(outcome: Outcome) -> None:
    text, documents, _ = (figure.curves for figure in outcome.figures)
    uses, predicted = text["predicted, 1/√n"]
    assert [rate**2 * n for rate, n in zip(predicted, uses, strict=True)] == pytest.approx([uses[-1]] * 4)
    for curves in (text, documents):
        rates = curves["measured, Adagrad"][1]
        assert rates[-1] == 1
        assert rates[0] > rates[len(rates) // 2] > 1
    # All uses in one step and the same direction: nearer to 1/n than to 1/sqrt(n).
    assert documents["measured, Adagrad"][1][0] > 2 * documents["predicted, 1/√n"][1][0]


def test_a_large_epsilon_makes_all_rates_equal() -> None:
    findings = SparseFeatures(eps=1.0, points=(10, 20), seeds=1).run(Lab()).findings
    assert [finding.holds for finding in findings] == ["never" in finding.claim for finding in findings]
    ratios = [finding.measured for finding in findings if "never" not in finding.claim]
    assert ratios == pytest.approx([1] * len(ratios), abs=0.02)


def test_words_that_did_not_come_get_no_gradient_and_the_others_are_counted() -> None:
    module = NextWord(1, 3, "adam", lr=0.01)
    module.one_loss(0, 0).backward()
    touched = (module.tables[0].grad != 0).any(1)  # type: ignore[operator]
    uses = module.uses(0, 1)
    assert torch.equal(touched, uses > 0)
    assert int(uses.sum()) == NextWord.BATCH
    assert int(module.uses(0, 3).sum()) == 3 * NextWord.BATCH
    groups = module.groups(0, 3)
    assert groups[module.uses(0, 3) == 0].unique().tolist() == [0]
    assert groups[module.uses(0, 3) == 2].unique().tolist() == [1]


def test_the_graph_model_is_the_whole_network_on_its_training_nodes() -> None:
    graph = read_graph(None)
    module = GraphWords(graph, 2, "adam", lr=0.01)
    near, words = adjacency(graph), graph.x.to_dense()
    hidden = (near @ words @ module.tables[1]).relu()
    whole = cross_entropy((near @ hidden @ module.heads[1])[graph.train_mask], graph.y[graph.train_mask])
    torch.testing.assert_close(module.one_loss(1, 0), whole)
    sizes = module.groups(0, 1).bincount()
    assert len(sizes) == 10
    assert int(sizes.max() - sizes.min()) <= 1
    assert module.uses(0, 1)[module.groups(0, 1) == 0].max() <= module.uses(0, 1).median()


def test_links_use_each_node_by_degree_and_by_random_pairs() -> None:
    graph = read_graph(None)
    module = Links(graph, 1, "adam", lr=0.01)
    degree = torch.zeros(len(graph.y)).index_add(
        0, graph.edge_index[0], torch.ones(graph.edge_index.shape[1])
    )
    pairs = module.uses(0, 1) - 2 * degree
    assert float(pairs.sum()) == pytest.approx(2 * graph.edge_index.shape[1], rel=1e-5)
    assert float(pairs.max()) == pytest.approx(float(pairs.min()), rel=1e-4)
    groups = module.groups(0, 1)
    assert degree[groups == 0].max() == 1
    assert degree[groups == 3].min() >= 20
    with torch.no_grad():
        module.tables[0].zero_()
    assert module.loss(0).item() == pytest.approx(0.693147, rel=1e-5)


def test_points_must_be_in_order() -> None:
    with pytest.raises(ValueError, match="`points` must be an early and a late step"):
        SparseFeatures(points=(10, 10))


def test_words_of_cora(data_path: Callable[..., Path]) -> None:
    root = str(data_path("planetoid", "Cora").parent)
    found = SparseFeatures(points=(5, 40), seeds=1, data_root=root).run(Lab()).findings
    mine = [finding for finding in found if finding.claim.startswith("words in nodes of Cora")]
    assert len(mine) == 6
    assert all(finding.holds for finding in mine)
    assert min(finding.measured for finding in mine) > 10
