"""`regmean`: the base and its vectors become one model, by Gram matrices that each vector has beside it."""
