"""What a pull request does to the recipes of a repository: found, judged and written for people and for machines."""
