"""`dem ci`: recipes at two revisions of a repository."""
