"""Graph data: what is loaded, how it is split, and what is said when it cannot be."""

import pickle
import sys

import pytest
import torch

from lightning_adapt.recipes.gnn._pyg import Data
from lightning_adapt.recipes.gnn._raw_files import load_dataset
from lightning_adapt.recipes.gnn.graph_data import GraphDataModule, stratified_folds
from lightning_adapt.recipes.gnn.motifs import MOTIFS, motif_graphs
from lightning_adapt.recipes.gnn.node_data import NodeDataModule

PARTS = ("train", "val", "test")


def node_graph(**arguments):
    data = NodeDataModule(**arguments)
    data.setup("fit")
    (graph,) = data.train_dataloader()
    return graph


def test_the_import_graph_is_split_by_seed_and_its_rows_sum_to_one():
    first, again, other = (node_graph(seed=seed) for seed in (0, 0, 1))
    masks = torch.stack([first[f"{part}_mask"] for part in PARTS])
    assert masks.sum(0).tolist() == [1] * len(first.y)  # every node is in exactly one part
    assert first.y[first.train_mask].bincount().tolist() == [10] * 5
    assert int(first.val_mask.sum()) == 100
    assert torch.equal(first.train_mask, again.train_mask)
    assert torch.equal(first.x.to_dense(), again.x.to_dense())
    assert not torch.equal(first.train_mask, other.train_mask)
    sums = first.x.to_dense().sum(1)
    assert first.x.is_sparse
    torch.testing.assert_close(sums[sums > 0], torch.ones_like(sums[sums > 0]))
    assert first.is_undirected()


def test_karate_club_has_four_labelled_nodes_and_thirty_others():
    graph = node_graph(name="KarateClub")
    assert [int(graph[f"{part}_mask"].sum()) for part in PARTS] == [4, 10, 20]
    assert not (graph.val_mask & graph.test_mask).any()


# Cora in little, in the files and formats of Planetoid.
def write_tiny_planetoid(root, name="cora"):
    sparse = pytest.importorskip("scipy.sparse")
    labels = torch.eye(2, dtype=torch.int32).repeat(300, 1).numpy()
    features = sparse.csr_matrix(2 * labels.astype("float32"))
    raw = root / "Cora" / "raw"
    raw.mkdir(parents=True)
    contents = {
        "x": features[:4],
        "y": labels[:4],
        "allx": features[:590],
        "ally": labels[:590],
        "tx": features[590:],
        "ty": labels[590:],
        "graph": {node: [(node + 2) % 600] for node in range(600)},
    }
    for part, content in contents.items():
        (raw / f"ind.{name}.{part}").write_bytes(pickle.dumps(content))
    (raw / f"ind.{name}.test.index").write_text("".join(f"{node}\n" for node in range(590, 600)))


def test_planetoid_is_read_and_its_folder_left_as_it_was(tmp_path):
    write_tiny_planetoid(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    graph = node_graph(name="Cora", root=str(tmp_path))
    assert [int(graph[f"{part}_mask"].sum()) for part in PARTS] == [4, 500, 10]
    assert graph.x.to_dense().unique().tolist() == [0.0, 1.0]  # 2 in the file, divided by the row's sum
    assert sorted(tmp_path.rglob("*")) == before


def test_files_that_cannot_be_read_are_named(tmp_path):
    write_tiny_planetoid(tmp_path)
    (tmp_path / "Cora" / "raw" / "ind.cora.allx").write_bytes(b"not a pickle")
    with pytest.raises(ValueError, match=r"`data.root` must hold the raw files of Cora .*; fetch them anew"):
        node_graph(name="Cora", root=str(tmp_path))


def test_a_missing_library_is_named(tmp_path):
    (tmp_path / "Cora" / "raw").mkdir(parents=True)

    def build(root):
        raise ModuleNotFoundError("No module named 'scipy'", name="scipy")

    with pytest.raises(ImportError, match=r"Cora needs scipy, .*; pip install 'lightning-adapt\[gnn\]'"):
        load_dataset(build, "Cora", str(tmp_path), [], download=False)


def test_only_download_lets_the_loader_write_into_the_folder(tmp_path):
    seen = []
    load_dataset(seen.append, "Cora", str(tmp_path), ["missing"], download=True)
    assert seen == [str(tmp_path)]


@pytest.mark.parametrize(("module", "name"), [(NodeDataModule, "Cora"), (GraphDataModule, "MUTAG")])
def test_missing_files_are_named_with_what_to_do(module, name, tmp_path, monkeypatch):
    # Nothing is fetched unasked: even asking for a name would fail here.
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(FileNotFoundError, match=rf"holds {name}/raw, got None; give --data.root FOLDER"):
        module(name).setup("fit")
    with pytest.raises(FileNotFoundError, match=rf"must hold {name}/raw/.*are missing; name another folder"):
        module(name, root=str(tmp_path)).setup("fit")


@pytest.mark.parametrize(
    ("module", "arguments", "text"),
    [
        (NodeDataModule, {"name": "cora"}, "`data.name` must be one of Cora, .*; did you mean 'Cora'"),
        (NodeDataModule, {"train_per_class": 0}, "`data.train_per_class` must be 1 or more, got 0"),
        (NodeDataModule, {"val_nodes": -1}, "`data.val_nodes` must be 1 or more, got -1"),
        (GraphDataModule, {"name": "mutag"}, "`data.name` must be one of MUTAG, .*; did you mean 'MUTAG'"),
        (GraphDataModule, {"folds": 2}, "`data.folds` must be 3 or more"),
        (GraphDataModule, {"fold": 10}, "`data.fold` must be 0 up to 9, got 10; folds are counted from 0"),
        (GraphDataModule, {"batch_size": 0}, "`data.batch_size` must be 1 or more, got 0"),
    ],
)
def test_bad_arguments_are_refused_at_once(module, arguments, text):
    with pytest.raises(ValueError, match=text):
        module(**arguments)


def test_a_split_that_leaves_nothing_to_test_on_is_refused():
    with pytest.raises(
        ValueError, match=r"`data.val_nodes` must leave nodes to test on, got 440 with 50 training"
    ):
        NodeDataModule(val_nodes=440).setup("fit")


def test_motifs_differ_in_nothing_that_can_be_counted_but_degrees():
    degrees = {
        name: torch.tensor(edges).flatten().bincount().sort().values.tolist()
        for name, edges in MOTIFS.items()
    }
    assert {len(edges) for edges in MOTIFS.values()} == {6}
    assert degrees == {"house": [2, 2, 2, 3, 3], "butterfly": [2, 2, 2, 2, 4], "k23": [2, 2, 2, 3, 3]}


def test_motif_graphs_are_connected_and_the_same_for_the_same_seed():
    state = torch.random.get_rng_state()
    graphs, again, other = motif_graphs(30, seed=1), motif_graphs(30, seed=1), motif_graphs(30, seed=2)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert [int(graph.y) for graph in graphs] == [0, 1, 2] * 10
    assert all(torch.equal(a.edge_index, b.edge_index) for a, b in zip(graphs, again, strict=True))
    assert not all(
        torch.equal(a.edge_index, b.edge_index)
        for a, b in zip(graphs, other, strict=True)
        if len(a.x) == len(b.x)
    )
    for graph in graphs:
        # A spanning tree has one edge less than nodes; the motif's two cycles add two.
        assert graph.num_edges == 2 * (graph.num_nodes + 1)
        assert reached(graph) == graph.num_nodes


def reached(graph: Data) -> int:
    seen = torch.zeros(graph.num_nodes, dtype=torch.bool)
    seen[0] = True
    for _ in range(graph.num_nodes):
        seen[graph.edge_index[1][seen[graph.edge_index[0]]]] = True
    return int(seen.sum())


def test_folds_share_out_every_class_and_every_item_once():
    labels = torch.tensor([0] * 23 + [1] * 40 + [2] * 7)
    fold = stratified_folds(labels, folds=5, seed=0)
    assert fold.bincount().tolist() == [14] * 5
    for label in range(3):
        counts = fold[labels == label].bincount(minlength=5)
        assert counts.max() - counts.min() <= 1
    assert not torch.equal(fold, stratified_folds(labels, folds=5, seed=1))


def test_the_folds_of_the_data_cover_it_and_the_three_parts_do_not_overlap():
    tested = []
    for fold in range(3):
        data = GraphDataModule(fold=fold, folds=3)
        data.setup("fit")
        parts = [
            [graph.edge_index for graph in loader.dataset]
            for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader())
        ]
        assert [len(part) for part in parts] == [200, 200, 200]
        data.setup("test")
        tested += [tuple(edges.flatten().tolist()) for edges in parts[2]]
    everything = [tuple(graph.edge_index.flatten().tolist()) for graph in motif_graphs()]
    assert sorted(tested) == sorted(everything)


def write_tiny_tu(root):
    raw = root / "MUTAG" / "raw"
    raw.mkdir(parents=True)
    graphs = range(1, 13)
    (raw / "MUTAG_A.txt").write_text("".join(f"{2 * g - 1}, {2 * g}\n{2 * g}, {2 * g - 1}\n" for g in graphs))
    (raw / "MUTAG_graph_indicator.txt").write_text("".join(f"{g}\n{g}\n" for g in graphs))
    (raw / "MUTAG_graph_labels.txt").write_text("".join(f"{g % 2 * 2 - 1}\n" for g in graphs))
    (raw / "MUTAG_node_labels.txt").write_text("".join(f"{g % 3}\n0\n" for g in graphs))


def test_tu_data_is_read_and_its_folder_left_as_it_was(tmp_path):
    write_tiny_tu(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    data = GraphDataModule("MUTAG", root=str(tmp_path), folds=3, batch_size=3)
    data.setup("fit")
    assert (data.num_features, data.num_classes) == (3, 2)
    assert [batch.num_graphs for batch in data.test_dataloader()] == [3, 1]
    assert sorted(tmp_path.rglob("*")) == before
