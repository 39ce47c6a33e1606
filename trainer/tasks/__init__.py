"""What is learnt: loss and metrics of classification, and what belongs to digits."""
