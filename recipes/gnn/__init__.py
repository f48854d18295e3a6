"""Graph neural networks: label the nodes of one graph, or whole graphs."""
