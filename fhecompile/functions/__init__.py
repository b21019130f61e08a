"""Functions of one variable that are no polynomials, and the polynomials that stand for them."""
