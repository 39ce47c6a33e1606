"""`trainer export`: a model in files that need no trainer."""

INDEX = "model.json"  # describes the export and lists the other files with their SHA-256
FORMAT = "trainer-export"
