"""`dem chat`: a recipe's models answer side by side, in a terminal or on a page, with ω that can be moved."""
