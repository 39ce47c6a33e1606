"""model.precision in the words of the rivals' libraries: all multiply as the trainer does."""

TORCH = {"float32": "highest", "tf32": "high", "bfloat16": "medium"}
JAX = {"float32": "highest", "tf32": "tensorfloat32", "bfloat16": "bfloat16"}
