"""What a model is: types, symbolic expressions, graphs, operators, loop nests, targets and plans."""
