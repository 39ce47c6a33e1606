"""What a run records and shows: metrics, TensorBoard, goodput, the terminal."""
