"""The two graphs (tensor graph, slot graph), their text form, verifiers and numpy evaluators."""
