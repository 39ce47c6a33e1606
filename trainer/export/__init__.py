"""`trainer export`: a model in files that need no trainer."""
