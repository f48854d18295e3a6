"""Graphs that differ in one small motif: a task any machine can make, and that takes message passing."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lightning_adapt.recipes.gnn._pyg import Data

Edges = Sequence[tuple[int, int]]

#: Motif -> its edges. All have 5 nodes and 6 edges; ``house`` and ``k23`` even have the same degrees.
MOTIFS: dict[str, Edges] = {
    "house": ((0, 1), (1, 2), (2, 3), (3, 0), (0, 4), (1, 4)),
    "butterfly": ((0, 1), (1, 2), (2, 0), (0, 3), (3, 4), (4, 0)),
    "k23": ((0, 2), (0, 3), (0, 4), (1, 2), (1, 3), (1, 4)),
}


def motif_graphs(number: int = 600, seed: int = 0) -> list[Data]:
    """Make random trees that carry one of :data:`MOTIFS` each; which one is to be found out.

    The number of nodes and of edges says nothing about the motif, and no node has features (``x`` is 1
    everywhere). Counting degrees tells the butterfly from the others at best; telling the house from K2,3
    takes knowing whose neighbour one is. In the manner of BA-2Motifs (Luo et al. 2020), where counting edges
    is enough.

    Args:
        number: How many graphs; the motifs take turns.
        seed: Start of the random numbers; the global ones are left alone.

    Returns:
        Graphs with ``x`` of shape ``(nodes, 1)``, float32, ``edge_index`` of shape ``(2, 2 * edges)``, and
        ``y`` of shape ``(1,)``, the motif's place in :data:`MOTIFS`.

    Example:
        >>> [graph.y.item() for graph in motif_graphs(4)]
        [0, 1, 2, 0]
    """
    generator = torch.Generator().manual_seed(seed)
    motifs = list(MOTIFS.values())
    return [_graph(motifs[index % len(motifs)], index % len(motifs), generator) for index in range(number)]


def _graph(motif: Edges, label: int, generator: torch.Generator) -> Data:
    def draw(below: int) -> int:
        return int(torch.randint(below, (), generator=generator))

    nodes = 15 + draw(11)
    edges = [*motif, (draw(5), 5)]  # node 5 is the root of the tree
    ends = [5]
    for node in range(6, nodes):
        # Preferential attachment (Barabasi & Albert 1999): the end of a random edge is a node in proportion
        # to its degree.
        parent = ends[draw(len(ends))]
        edges.append((parent, node))
        ends += (parent, node)
    edge_index = torch.tensor(edges).t()
    return Data(  # pyright: ignore[reportCallIssue]
        x=torch.ones(nodes, 1),
        edge_index=torch.cat([edge_index, edge_index.flip(0)], dim=1),
        y=torch.tensor([label]),
    )
