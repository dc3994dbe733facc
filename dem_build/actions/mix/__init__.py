"""`data:NAME` of a mixture: the rows of several datasets become one train split."""
